//! Every kind of the list through the watches, against an API server in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures::StreamExt;
use heddle_policy_compiler::{KindResource, ObjectKind, ObjectRef};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::default_mesh::DefaultMesh;
use crate::objects::ObjectSource;
use crate::tasks::Tasks;

/// The resources by group and plural, each with its version and its objects.
type Installed = BTreeMap<(&'static str, &'static str), (&'static str, Vec<Value>)>;

/// An API server. A resource without an entry is not installed.
#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<Installed>>,
    /// The names of objects that were written.
    written: Arc<Mutex<Vec<String>>>,
    /// Each tick ends all watches and forgets the history.
    outages: Arc<watch::Sender<u64>>,
}

impl Server {
    fn client(&self) -> Client {
        let router = Router::new().fallback(answer).with_state(self.clone());
        Client::new(router, "default")
    }

    fn set(&self, resource: &KindResource, objects: Vec<Value>) {
        let mut all = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(
            (resource.group, resource.plural),
            (resource.version, objects),
        );
    }

    fn uninstall(&self, resource: &KindResource) {
        let mut all = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&(resource.group, resource.plural));
    }

    fn break_watches(&self) {
        self.outages.send_modify(|tick| *tick += 1);
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let mut outages = server.outages.subscribe();
    let history = format!("{}", 10 + *outages.borrow_and_update());
    let (path, query) = (request.uri().path(), request.uri().query());
    let query = query.unwrap_or_default();
    let all = server.objects.lock().unwrap().clone();
    if request.method() == Method::PATCH {
        let name = path.rsplit('/').next().unwrap_or_default();
        server.written.lock().unwrap().push(name.to_owned());
        return failure(StatusCode::CONFLICT);
    }
    if path == "/apis" {
        return Json(groups(&all)).into_response();
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, version) = match *parts {
        ["api", version, ..] => ("", version),
        ["apis", group, version, ..] => (group, version),
        _ => ("", ""),
    };
    let there = |of: &(&str, &str), own: &str| of.0 == group && own == version;
    if matches!(*parts, ["api", _] | ["apis", _, _]) {
        let resources = all.iter().filter(|(of, (own, _))| there(of, own));
        let resources = resources.map(|((_, plural), _)| {
            json!({"name": plural, "singularName": "", "namespaced": true, "kind": "", "verbs": []})
        });
        let resources: Vec<Value> = resources.collect();
        return Json(json!({"groupVersion": "", "resources": resources})).into_response();
    }
    let plural = parts.last().copied().unwrap_or_default();
    let mut found = all
        .iter()
        .filter(|(of, (own, _))| there(of, own) && of.1 == plural);
    let Some((_, (_, objects))) = found.next() else {
        // As the API server answers for a group that it does not have.
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    };
    if query.contains("sendInitialEvents") {
        return failure(StatusCode::UNPROCESSABLE_ENTITY);
    }
    if !query.contains("watch=true") {
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": history}, "items": objects});
        return Json(list).into_response();
    }
    // A list of before the last outage has no history.
    let current = query.contains(&format!("resourceVersion={history}"));
    let gone = async move {
        if current {
            let _ = outages.changed().await;
        }
        let status = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "gone"});
        let line = json!({"type": "ERROR", "object": status});
        Ok::<_, std::io::Error>(Bytes::from(format!("{line}\n")))
    };
    Body::from_stream(futures::stream::once(gone).boxed()).into_response()
}

/// The groups of the resources that are installed.
fn groups(installed: &Installed) -> Value {
    let there = installed.iter();
    let versions: BTreeSet<(&str, &str)> =
        there.map(|((group, _), (own, _))| (*group, *own)).collect();
    let group = |(group, version): (&str, &str)| {
        let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
        json!({"name": group, "versions": [version], "preferredVersion": version, "serverAddressByClientCIDRs": []})
    };
    json!({"kind": "APIGroupList", "groups": versions.into_iter().map(group).collect::<Vec<_>>()})
}

fn failure(code: StatusCode) -> Response {
    let status = json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "message": code.to_string()});
    (code, Json(status)).into_response()
}

/// The smallest object of a kind.
fn object(kind: ObjectKind, resource: &KindResource) -> Value {
    let namespace = Some(kind.namespace_of(Some("shop"))).filter(|name| !name.is_empty());
    json!({
        "apiVersion": resource.api_version(), "kind": kind.api_kind(), "spec": {},
        "metadata": {"name": "a", "namespace": namespace, "uid": "u", "generation": 1, "resourceVersion": "5"},
    })
}

struct Watching {
    server: Server,
    cache: Arc<Cache>,
    known: BTreeSet<ObjectRef>,
    _tasks: Tasks,
}

impl Watching {
    fn new(server: Server, kinds: impl IntoIterator<Item = (ObjectKind, KindResource)>) -> Self {
        let mut cache = Cache::new(Arc::default());
        cache.look = Duration::from_millis(50);
        // The store of the last good specs is empty.
        cache.last_goods.set_read();
        let cache = Arc::new(cache);
        let mut tasks = Tasks::new(CancellationToken::new());
        cache.start(&server.client(), kinds, &mut tasks);
        Self {
            server,
            cache,
            known: BTreeSet::new(),
            _tasks: tasks,
        }
    }

    /// Waits until the cache is complete, and holds so many objects.
    async fn until(&mut self, objects: usize) {
        let mut changes = self.cache.changes();
        loop {
            changes.mark_unchanged();
            let batch = ObjectSource::take(&*self.cache);
            for (object, now) in batch.changes {
                match now {
                    Some(_) => _ = self.known.insert(object),
                    None => _ = self.known.remove(&object),
                }
            }
            if batch.complete && self.known.len() == objects {
                return;
            }
            let changed = tokio::time::timeout(Duration::from_secs(60), changes.changed()).await;
            let known = &self.known;
            changed
                .unwrap_or_else(|_| panic!("{objects} objects are awaited: {known:?}"))
                .unwrap();
        }
    }
}

#[tokio::test]
async fn objects_of_every_kind_that_are_deleted_during_an_outage_leave_the_cache() {
    let server = Server::default();
    for (kind, resource) in ObjectKind::watched() {
        server.set(&resource, vec![object(kind, &resource)]);
    }
    let all = ObjectKind::watched().count();
    let mut watching = Watching::new(server, ObjectKind::watched());
    watching.until(all).await;
    for (kind, resource) in ObjectKind::watched() {
        let name = ObjectRef::new(kind, kind.namespace_of(Some("shop")), "a");
        assert!(watching.known.contains(&name), "{name}");
        watching.server.set(&resource, Vec::new());
    }
    watching.server.break_watches();
    watching.until(0).await;
}

#[tokio::test]
async fn an_optional_kind_may_be_installed_and_uninstalled_at_any_time() {
    let server = Server::default();
    for (_, resource) in ObjectKind::watched() {
        server.set(&resource, Vec::new());
    }
    let (kind, resource) = (ObjectKind::AuthPolicy, ObjectKind::AuthPolicy.resource());
    let resource = resource.unwrap().or_none();
    server.uninstall(&resource);
    let kinds = ObjectKind::watched().filter(|(other, _)| *other != kind);
    let mut watching = Watching::new(server, kinds.chain([(kind, resource)]));
    watching.until(0).await;
    watching
        .server
        .set(&resource, vec![object(kind, &resource)]);
    watching.until(1).await;
    watching.server.uninstall(&resource);
    watching.server.break_watches();
    watching.until(0).await;
    watching
        .server
        .set(&resource, vec![object(kind, &resource)]);
    watching.until(1).await;
}

#[tokio::test]
async fn a_kind_is_read_in_the_newest_version_that_is_served() {
    let server = Server::default();
    let kind = ObjectKind::SmiTrafficSplit;
    let resource = kind.resource().unwrap();
    let in_version = |version: &str| {
        let mut versions = resource.versions();
        versions.find(|of| of.version == version).unwrap()
    };
    let mut watching = Watching::new(server, [(kind, resource)]);
    watching.until(0).await;
    for version in ["v1alpha2", "v1alpha4", "v1alpha1"] {
        let resource = in_version(version);
        watching
            .server
            .set(&resource, vec![object(kind, &resource)]);
        watching.server.break_watches();
        watching.until(1).await;
        watching.server.set(&resource, Vec::new());
        watching.server.break_watches();
        watching.until(0).await;
    }
}

#[tokio::test]
async fn a_missing_kind_that_is_not_optional_is_awaited() {
    let server = Server::default();
    for (_, resource) in ObjectKind::watched() {
        server.set(&resource, Vec::new());
    }
    let resource = ObjectKind::AuthPolicy.resource().unwrap();
    server.uninstall(&resource);
    let mut watching = Watching::new(server, ObjectKind::watched());
    let incomplete = tokio::time::timeout(Duration::from_secs(2), watching.until(0)).await;
    assert!(incomplete.is_err(), "complete without a kind");
    watching.server.set(&resource, Vec::new());
    watching.until(0).await;
}

#[tokio::test]
async fn a_mesh_that_somebody_deletes_is_not_created_again() {
    let server = Server::default();
    let resource = ObjectKind::Mesh.resource().unwrap();
    let mut mesh = object(ObjectKind::Mesh, &resource);
    mesh["metadata"]["name"] = json!("default");
    server.set(&resource, vec![mesh]);
    let mut watching = Watching::new(server.clone(), [(ObjectKind::Mesh, resource)]);
    watching.until(1).await;
    let (leads, leading) = watch::channel(false);
    let creator = DefaultMesh {
        client: server.client(),
        cache: Arc::clone(&watching.cache),
        leads: leading,
        trust_domain: "cluster.local".parse().unwrap(),
    };
    let stop = CancellationToken::new();
    // It looks at the Mesh in its first step, which the other tasks of this thread wait for.
    let task = tokio::spawn(creator.keep(stop.clone()));
    tokio::task::yield_now().await;
    server.set(&resource, Vec::new());
    server.break_watches();
    watching.until(0).await;
    leads.send_replace(true);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    task.await.unwrap().unwrap();
    assert!(server.written.lock().unwrap().is_empty());
}
