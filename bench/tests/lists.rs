//! The control plane against a kube-apiserver that streams lists and one that does not. `tests/e2e/run.sh` runs it, once
//! the API server's programs and the control plane are built.

#![allow(
    clippy::unwrap_used,
    reason = "a mistake in a test's own parts may fail the test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use heddle_bench::cluster::Variant;
use heddle_bench::paths::ClusterParts;
use heddle_bench::sim::Watcher;
use heddle_bench::sim::proxy::Proxy;
use heddle_bench::sim::response::{CLUSTER, ENDPOINTS, LISTENER, ROUTE, Response};
use heddle_bench::table::stage::{Ground, connect_watched, members};

/// With more pods than a page has.
const SERVICES: usize = 60;
const PROXIES: usize = 20;
const IN_PAGES: &str = "reading them in pages";

/// Version by proxy and name.
#[derive(Default)]
struct Held(Mutex<BTreeMap<(usize, String), String>>);

impl Watcher for Held {
    fn response(&self, _: usize, _: Instant, _: &Response<'_>) {}

    fn holds(&self, number: usize, proxy: &Proxy) {
        let mut all = self.0.lock().unwrap();
        all.retain(|(of, _), _| *of != number);
        for url in [CLUSTER, ENDPOINTS, LISTENER, ROUTE] {
            let held = proxy.held(url);
            // The hour of on-demand names is the clock's.
            let held = held.filter(|(name, _)| url != CLUSTER || !name.starts_with("dst|"));
            all.extend(
                held.map(|(name, version)| ((number, format!("{url} {name}")), version.to_owned())),
            );
        }
    }
}

fn built() -> (ClusterParts, PathBuf) {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let parts = ClusterParts::find(repo).unwrap();
    // Beside the directory of this test.
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let operator = profile.join("heddle-operator");
    assert!(operator.is_file(), "{}: `make build`", operator.display());
    (parts, operator)
}

/// The resources that proxies come to hold, and the control plane's log.
async fn held(parts: &ClusterParts, operator: &Path, pages: bool) -> (Arc<Held>, String) {
    let variant = Variant {
        no_streamed_lists: pages,
        ..Variant::default()
    };
    let mut ground = Ground::prepare(parts, operator, SERVICES, &variant)
        .await
        .unwrap();
    let (mut operator, root) = ground.operator().await.unwrap();
    let members = members(ground.mesh, &root, PROXIES, 5).unwrap();
    let held = Arc::new(Held::default());
    let watcher: Arc<dyn Watcher> = Arc::<Held>::clone(&held);
    let fleet = connect_watched(&ground, members, watcher).await.unwrap();
    operator.alive().unwrap();
    fleet.all_up().unwrap();
    (held, std::fs::read_to_string(ground.launch.log()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver, which tests/e2e/cluster/build.sh builds"]
async fn pages_say_the_same_as_streams() {
    let (parts, operator) = built();
    let (streamed, log) = held(&parts, &operator, false).await;
    assert!(!log.contains(IN_PAGES), "{log}");
    let (paged, log) = held(&parts, &operator, true).await;
    assert!(log.contains(IN_PAGES), "{log}");
    let (streamed, paged) = (streamed.0.lock().unwrap(), paged.0.lock().unwrap());
    assert!(streamed.len() > PROXIES * 20, "{}", streamed.len());
    assert_eq!(*streamed, *paged);
}
