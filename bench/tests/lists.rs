//! The control plane against a kube-apiserver that streams lists and one that does not. `tests/e2e/network.sh` runs it, once
//! the API server's programs and the control plane are built.

#![allow(
    clippy::unwrap_used,
    reason = "a mistake in a test's own parts may fail the test"
)]

mod built;

use std::collections::BTreeMap;
use std::path::Path;
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
const RELISTS: &str = "heddle_relists_total";

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

/// The resources that proxies come to hold, and the number of kinds that the control plane read in pages.
async fn held(parts: &ClusterParts, operator: &Path, pages: bool) -> (Arc<Held>, f64) {
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
    let metrics = ground.scraper(&root).scrape().await.unwrap();
    (held, metrics.labeled(RELISTS, "reason=\"not_streamed\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_hold_the_same_resources_whether_lists_are_streamed_or_paged() {
    let (parts, operator) = built::built();
    let (streamed, in_pages) = held(&parts, &operator, false).await;
    assert_eq!(in_pages, 0.0);
    let (paged, in_pages) = held(&parts, &operator, true).await;
    assert!(in_pages > 0.0);
    let (streamed, paged) = (streamed.0.lock().unwrap(), paged.0.lock().unwrap());
    assert!(streamed.len() > PROXIES * 20, "{}", streamed.len());
    assert_eq!(*streamed, *paged);
}
