//! The hand-written pair, with a real Envoy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use heddle_bench::children::free_addresses;
use heddle_bench::load::Load;
use heddle_bench::pair::{Pair, Ports};
use heddle_bench::{echo, memory};

fn envoy() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/envoy/envoy");
    std::env::var_os("HEDDLE_ENVOY").map_or_else(default, PathBuf::from)
}

#[tokio::test]
async fn requests_pass_by_mutual_tls() {
    let work = tempfile::tempdir().unwrap();
    let [application] = free_addresses("127.0.0.1").unwrap();
    echo::start(application).unwrap();
    let behind = Ports {
        requests: application,
        bytes: application,
    };
    let pair = Pair::start(&envoy(), 1, behind, work.path()).await.unwrap();
    let load = Load {
        rate: 100,
        connections: 2,
        warm_up: Duration::from_millis(100),
        counted: Duration::from_millis(300),
        host: "echo".to_owned(),
    };
    assert_eq!(load.run(pair.entry).await.unwrap().scheduled.len(), 30);
    assert!(memory::of(pair.server.pid()).unwrap().private > 0.0);
}
