//! Tests of the writer of statuses after a start.

use std::sync::Mutex;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use heddle_policy_compiler::PodRef;
use serde_json::Value;

use super::super::scopes::StoredScopes;
use super::super::sharded::{Store, map_of};
use super::*;
use crate::scope::{self, Scopes};
use crate::test_snapshots::WORLD;

const PATIENCE: Duration = Duration::from_secs(60);
const SPLIT: &str = "/apis/heddle.dev/v1alpha1/namespaces/shop/trafficsplits/web/status";

/// The stored scope of the calling workload.
fn stored(snapshot: &Snapshot) -> Value {
    let client = &snapshot.compiled.proxies[&PodRef::new("shop", "client-1")];
    let workload = client.workload();
    let to = "service/shop/web:80".parse().unwrap();
    let (key, text) = (
        scope::key(&workload),
        scope::write(&workload, &BTreeMap::from([(to, 1)])),
    );
    let name = map_of::<StoredScopes>(&key);
    json!({"metadata": {"name": name, "resourceVersion": "5"}, "data": {key: text}})
}

/// An API server with the stored scopes, which it lists only once it is told to.
#[derive(Clone)]
struct Server {
    stored: Value,
    /// Whether the list was asked for.
    asked: Arc<watch::Sender<bool>>,
    /// Whether the list may be answered.
    answers: Arc<watch::Sender<bool>>,
    /// The written statuses by path.
    written: Arc<Mutex<Vec<(String, Value)>>>,
    writes: Arc<watch::Sender<usize>>,
}

impl Server {
    fn new(stored: Value) -> Self {
        Self {
            stored,
            asked: Arc::new(watch::Sender::new(false)),
            answers: Arc::new(watch::Sender::new(false)),
            written: Arc::default(),
            writes: Arc::new(watch::Sender::new(0)),
        }
    }

    fn client(&self) -> Client {
        let router = axum::Router::new()
            .fallback(answer)
            .with_state(self.clone());
        Client::new(router, "default")
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    if path.ends_with("/configmaps") {
        if query.contains("watch=true") {
            let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
            return Body::from_stream(never).into_response();
        }
        server.asked.send_replace(true);
        let mut answers = server.answers.subscribe();
        answers.wait_for(|now| *now).await.unwrap();
        let metadata = json!({"resourceVersion": "5"});
        let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": [server.stored]});
        return Json(list).into_response();
    }
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await;
    let body: Value = serde_json::from_slice(&body.unwrap()).unwrap();
    if method == Method::PATCH {
        let written = (path.to_owned(), body.clone());
        server.written.lock().unwrap().push(written);
        server.writes.send_modify(|count| *count += 1);
    }
    Json(body).into_response()
}

/// A replica that leads from its start, with this count.
struct Leader {
    writer: Writer,
    scopes: Arc<Store<StoredScopes>>,
    /// The parts that the writer follows end with their senders.
    _followed: (watch::Sender<bool>, watch::Sender<Arc<Count>>),
}

/// Returns a leader to which no proxy is connected.
fn leader(server: &Server, snapshot: Arc<Snapshot>) -> Leader {
    let (scopes, metrics) = (Arc::<Scopes>::default(), Arc::<Metrics>::default());
    let domain = "cluster.local".parse().unwrap();
    let interval = Duration::from_secs(10);
    let mesh = MeshSource::new(domain, Arc::clone(&scopes), interval, Arc::clone(&metrics));
    let mesh = Arc::new(mesh);
    let content = StoredScopes {
        scopes,
        mesh: Arc::clone(&mesh),
    };
    let store = Store::new(server.client(), Arc::new(content), Arc::clone(&metrics));
    let count = Count {
        snapshot,
        ..Count::default()
    };
    let (leads, led) = watch::channel(true);
    let (counts, counted) = watch::channel(Arc::new(count));
    let trials = Trials::new(Some("/no/such/envoy".into()), &std::env::temp_dir());
    let writer = Writer {
        client: server.client(),
        pod: "operator-1".to_owned(),
        cache: Arc::new(Cache::new(Arc::clone(&metrics))),
        peers: Arc::new(Peers::new("operator-1".to_owned())),
        leads: led,
        counts: counted,
        trials: Arc::new(trials),
        mesh,
        scopes: store.is_read(),
        metrics,
    };
    Leader {
        writer,
        scopes: Arc::new(store),
        _followed: (leads, counts),
    }
}

/// After a start no proxy has a stream. A pod that needs an object by its learned scope alone counts once the stored scopes are read;
/// before, no pod seems to need the object.
#[tokio::test]
async fn a_new_leader_writes_no_status_before_the_stored_scopes_are_read() {
    let snapshot = Arc::new(Snapshot {
        revision: 1,
        ..Snapshot::of_yaml(WORLD)
    });
    let server = Server::new(stored(&snapshot));
    let leader = leader(&server, snapshot);
    let stop = CancellationToken::new();
    let writing = tokio::spawn(leader.writer.run(stop.clone()));
    let reading = tokio::spawn(leader.scopes.listen(stop.clone()));
    let mut asked = server.asked.subscribe();
    asked.wait_for(|asked| *asked).await.unwrap();
    // The runtime has one thread, so that each turn lets all tasks go on that can.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*server.written.lock().unwrap(), []);
    server.answers.send_replace(true);
    let mut writes = server.writes.subscribe();
    let first = tokio::time::timeout(PATIENCE, writes.wait_for(|count| *count > 0)).await;
    first.expect("a status is written").unwrap();
    let (path, status) = server.written.lock().unwrap().remove(0);
    let status = &status["status"];
    assert_eq!(path, SPLIT);
    assert_eq!(status["proxies"], "0/1", "{status}");
    let conditions = status["conditions"].as_array().unwrap();
    let programmed = conditions.iter().find(|of| of["type"] == "Programmed");
    let programmed = programmed.unwrap();
    assert_eq!(programmed["reason"], "Pending", "{status}");
    stop.cancel();
    writing.await.unwrap().unwrap();
    reading.await.unwrap().unwrap();
}
