//! The Mesh of an installation without one, so that `kubectl get mesh` shows the settings.
//!
//! It is not part of the manifests: an object of a kind cannot be applied together with the definition of the kind.

use std::sync::Arc;
use std::time::Duration;

use heddle_identity::TrustDomain;
use heddle_policy_compiler::{KindResource, ObjectKind, ObjectRef};
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::declared::api;
use super::{CallError, call};
use crate::objects::ObjectSource;
use crate::tasks::{Ended, chain};

const NAME: &str = "default";
const RETRY: Duration = Duration::from_secs(10);
/// By this annotation `kubectl apply` finds the fields to remove; without it, it warns.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Creates the Mesh while this replica leads, unless this replica has seen one: a Mesh that somebody deletes stays deleted.
pub(super) struct DefaultMesh {
    pub(super) client: Client,
    pub(super) cache: Arc<Cache>,
    pub(super) leads: watch::Receiver<bool>,
    /// The trust domain of the root.
    pub(super) trust_domain: TrustDomain,
}

impl DefaultMesh {
    pub(super) async fn keep(mut self, stop: CancellationToken) -> Ended {
        let resource = ObjectKind::Mesh.resource();
        let resource = resource.ok_or("the Mesh has no resource")?;
        let mesh = ObjectRef::new(ObjectKind::Mesh, "", NAME);
        let mut changes = self.cache.changes();
        let mut failing = false;
        loop {
            changes.mark_unchanged();
            if self.cache.uid(&mesh).is_some() {
                break;
            }
            if *self.leads.borrow_and_update() {
                match self.create(&resource).await {
                    Ok(()) => {
                        tracing::info!("Mesh default created: every setting has its default");
                        break;
                    }
                    // Somebody else's, which the watch has not returned yet.
                    Err(error) if error.code() == Some(409) => break,
                    Err(error) if !std::mem::replace(&mut failing, true) => tracing::warn!(
                        error = chain(&error),
                        "Mesh default could not be created; every setting has its default; trying again"
                    ),
                    Err(_) => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = changes.changed() => changed.map_err(|_| "the cache is gone")?,
                changed = self.leads.changed() => changed.map_err(|_| "the election is over")?,
                () = tokio::time::sleep(RETRY), if failing => {}
            }
        }
        stop.cancelled().await;
        Ok(())
    }

    /// By server-side apply, which owns no field with a default, so that no later apply of a user conflicts. The settings of one that somebody
    /// creates at the same moment stay.
    async fn create(&self, resource: &KindResource) -> Result<(), CallError> {
        let api = api(&self.client, ObjectKind::Mesh, resource);
        let params = PatchParams {
            field_manager: Some("heddle-operator-default".to_owned()),
            ..PatchParams::default()
        };
        let body = body(&resource.api_version(), &self.trust_domain);
        call(api.patch(NAME, &params, &Patch::Apply(body))).await?;
        Ok(())
    }
}

fn body(api_version: &str, trust_domain: &TrustDomain) -> Value {
    let default = heddle_crds::MeshSpec::default().trust_domain;
    // A root may be older than the Mesh.
    let spec = match *trust_domain.as_str() == *default {
        true => json!({}),
        false => json!({"trustDomain": trust_domain.as_str()}),
    };
    let metadata = json!({"name": NAME});
    let mut mesh =
        json!({"apiVersion": api_version, "kind": "Mesh", "metadata": metadata, "spec": spec});
    let applied = format!("{mesh}\n");
    if let Some(metadata) = mesh.pointer_mut("/metadata") {
        *metadata = json!({"name": NAME, "annotations": {LAST_APPLIED: applied}});
    }
    mesh
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Method, Request, Response};
    use kube::client::Body;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A replica, with its writes, which are answered with a status.
    struct Replica {
        cache: Arc<Cache>,
        leads: watch::Sender<bool>,
        writes: Arc<Mutex<Vec<Value>>>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<Ended>,
    }

    impl Replica {
        fn start(trust_domain: &str, code: u16) -> Self {
            let writes = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&writes);
            let answer = move |request: Request<Body>| {
                let log = Arc::clone(&log);
                async move {
                    assert_eq!(request.method(), Method::PATCH);
                    assert!(request.uri().path().ends_with("/meshes/default"));
                    assert!(!request.uri().query().unwrap_or_default().contains("force"));
                    let body = request.into_body().collect_bytes().await.unwrap();
                    let body: Value = serde_json::from_slice(&body).unwrap();
                    log.lock().unwrap().push(body.clone());
                    let answer = match code {
                        200 => body,
                        _ => json!({"kind": "Status", "status": "Failure", "code": code}),
                    };
                    let body = Body::from(answer.to_string().into_bytes());
                    let response = Response::builder().status(code).body(body);
                    Ok::<_, std::io::Error>(response.unwrap())
                }
            };
            let (leads, leading) = watch::channel(false);
            let cache = Arc::new(Cache::new(Arc::default()));
            let stop = CancellationToken::new();
            let mesh = DefaultMesh {
                client: Client::new(tower::service_fn(answer), "default"),
                cache: Arc::clone(&cache),
                leads: leading,
                trust_domain: trust_domain.parse().unwrap(),
            };
            let task = tokio::spawn(mesh.keep(stop.clone()));
            Self {
                cache,
                leads,
                writes,
                stop,
                task,
            }
        }

        async fn end(self) -> Vec<Value> {
            self.stop.cancel();
            let ended = tokio::time::timeout(PATIENCE, self.task).await;
            ended.expect("the task ends").unwrap().unwrap();
            self.writes.lock().unwrap().clone()
        }

        async fn writes(&self, count: usize) {
            while self.writes.lock().unwrap().len() < count {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn only_the_leader_creates_a_mesh_and_only_once() {
        let replica = Replica::start("cluster.local", 200);
        replica.cache.tick();
        tokio::task::yield_now().await;
        assert!(replica.writes.lock().unwrap().is_empty());
        replica.leads.send_replace(true);
        let written = tokio::time::timeout(PATIENCE, replica.writes(1)).await;
        written.expect("a Mesh");
        replica.cache.tick();
        replica.leads.send_replace(false);
        replica.leads.send_replace(true);
        let writes = replica.end().await;
        let [mesh] = &writes[..] else {
            panic!("{writes:?}");
        };
        assert_eq!(mesh["spec"], json!({}));
        let applied = mesh["metadata"]["annotations"][LAST_APPLIED].as_str();
        let applied: Value = serde_json::from_str(applied.unwrap()).unwrap();
        assert_eq!(
            applied,
            json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}, "spec": {}})
        );
    }

    #[tokio::test]
    async fn the_mesh_has_the_trust_domain_of_an_older_root() {
        let replica = Replica::start("example.org", 409);
        replica.leads.send_replace(true);
        let written = tokio::time::timeout(PATIENCE, replica.writes(1)).await;
        written.expect("a Mesh");
        let writes = replica.end().await;
        assert_eq!(writes.len(), 1, "somebody else's stays");
        assert_eq!(writes[0]["spec"], json!({"trustDomain": "example.org"}));
    }
}
