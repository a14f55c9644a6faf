//! The object that makes a namespace or the mesh strict.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use heddle_crds::{MESH_NAME, MeshMode};
use heddle_policy_compiler::Compiled;
use heddle_policy_compiler::injection::INJECT_LABEL;
use heddle_policy_compiler::world::is_namespace_name;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::plan;
use crate::cluster::{self, ClusterArgs, refusal};
use crate::mesh::wait::{Awaited, Pending, wait};
use crate::plan::change;
use crate::sources::{Objects, Outcome};

/// The field manager of the object.
const MANAGER: &str = "heddle-mtls";
/// The AuthPolicy of a namespace. Of two policies with a mode for a port the smaller name wins, so that exceptions of other policies hold.
const POLICY: &str = "zz-mtls-strict";
/// The time between two looks.
const POLL: Duration = Duration::from_secs(1);

/// The workloads that are to accept mutual TLS alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Those of a namespace.
    Namespace(String),
    /// All.
    Mesh,
}

/// The object as the API server has it.
pub struct Written {
    /// Whether it differs from before.
    pub changed: bool,
    /// Its generation.
    pub generation: i64,
}

impl Target {
    /// Takes the argument of the command.
    ///
    /// # Errors
    /// It is not the name of a namespace.
    pub fn of(namespace: Option<&str>) -> Result<Self> {
        let Some(namespace) = namespace else {
            return Ok(Self::Mesh);
        };
        ensure!(
            is_namespace_name(namespace),
            "\"{namespace}\" is not the name of a namespace; use lower-case letters, digits and dashes, 63 at most"
        );
        Ok(Self::Namespace(namespace.to_owned()))
    }

    /// The name in sentences.
    pub fn name(&self) -> String {
        match self {
            Self::Namespace(namespace) => format!("namespace {namespace}"),
            Self::Mesh => "the mesh".to_owned(),
        }
    }

    /// The object to write, with no other fields than those that make the target strict.
    pub fn object(&self) -> Value {
        let version = heddle_crds::API_VERSION;
        match self {
            Self::Namespace(namespace) => json!({"apiVersion": version, "kind": "AuthPolicy",
                "metadata": {"name": POLICY, "namespace": namespace},
                "spec": {"mtls": {"mode": MeshMode::Strict}}}),
            Self::Mesh => json!({"apiVersion": version, "kind": "Mesh",
                "metadata": {"name": MESH_NAME}, "spec": {"mode": MeshMode::Strict}}),
        }
    }

    /// The name of the object to write, such as `AuthPolicy shop/zz-mtls-strict`.
    pub fn object_name(&self) -> String {
        match self {
            Self::Namespace(namespace) => format!("AuthPolicy {namespace}/{POLICY}"),
            Self::Mesh => format!("Mesh {MESH_NAME}"),
        }
    }

    /// The command that takes the flip back. `earlier`: the mode of the Mesh before it.
    pub fn undo(&self, earlier: MeshMode) -> String {
        match self {
            Self::Namespace(namespace) => {
                format!("kubectl delete authpolicy -n {namespace} {POLICY}")
            }
            Self::Mesh => format!(
                "kubectl patch mesh {MESH_NAME} --type merge -p '{{\"spec\":{{\"mode\":\"{earlier:?}\"}}}}'"
            ),
        }
    }

    /// The objects after the flip.
    ///
    /// # Errors
    /// Never: only the deletion of a missing object fails, and nothing is deleted.
    pub fn after(&self, before: &Objects) -> Result<Objects> {
        match self {
            Self::Namespace(_) => Ok(change::apply(before, &Objects::one(self.object()), &[])?.0),
            Self::Mesh => plan::strict_mesh(before),
        }
    }

    /// The namespaces with workloads that the flip is about.
    ///
    /// # Errors
    /// The namespace has no pod with a sidecar, the flip would not be in force, or it would also enforce the policies of mode Observe.
    pub fn namespaces(&self, before: &Outcome, after: &Compiled) -> Result<BTreeSet<String>> {
        match self {
            Self::Namespace(namespace) => {
                before.require_pods(namespace)?;
                let mut pods = before.world.pods().values();
                ensure!(
                    pods.any(|pod| pod.proxied() && *pod.template.namespace == **namespace),
                    "namespace {namespace} is not in the mesh: no pod has a sidecar, so its ports accept plain text in every mode; \
                     label it {INJECT_LABEL}=enabled and restart its pods first"
                );
                ensure!(
                    after.mesh().mode != MeshMode::Observe,
                    "Mesh {MESH_NAME} has mode Observe, in which every port accepts plain text; set spec.mode to Permissive first"
                );
                ensure!(
                    !after.bypasses(namespace),
                    "Mesh {MESH_NAME} bypasses namespace {namespace}, so its ports accept plain text; run heddle mesh bypass {namespace} --off first"
                );
                Ok(BTreeSet::from([namespace.clone()]))
            }
            Self::Mesh => {
                ensure!(
                    before.compiled.mesh().mode != MeshMode::Observe,
                    "Mesh {MESH_NAME} is not Permissive: it has mode Observe, and Strict would also enforce every policy; set spec.mode to \
                     Permissive first"
                );
                let pods = before.world.pods().values();
                let meshed = pods.filter(|pod| pod.alive && pod.template.meshed);
                Ok(meshed
                    .map(|pod| pod.template.namespace.to_string())
                    .collect())
            }
        }
    }

    /// Writes the object by server-side apply, or has the API server check that. `undo`: the command that takes it back.
    ///
    /// # Errors
    /// The API server refuses it, another field manager has the field, or there is no answer: then it may be written.
    pub async fn write(
        &self,
        client: &Client,
        dry_run: bool,
        force: bool,
        undo: &str,
    ) -> Result<Written> {
        let object: DynamicObject = serde_json::from_value(self.object())?;
        let what = cluster::describe(&object);
        let name = object.name_any();
        let api = cluster::api_of(client, &object)?;
        let before = cluster::find(&format!("get {what}"), api.get(&name)).await?;
        if *self == Self::Mesh && before.is_none() {
            bail!("{what} does not exist; create it by heddle install --apply");
        }
        let params = PatchParams {
            dry_run,
            force,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Apply(&object);
        let doing = format!("apply {what}");
        let applied = cluster::call(&doing, api.patch(&name, &params, &patch));
        let applied = match applied.await {
            Err(error) if refusal(&error) == Some(409) => bail!(
                "nothing was changed: {}; write mode Strict where that manager has the object from, or add --force-conflicts, which takes the field over",
                cluster::explain(&error)
            ),
            Err(error) if !dry_run && refusal(&error).is_none_or(|code| code >= 500) => {
                return Err(error.context(format!(
                    "{what} may be written, for the answer is not known; repeat the command, or take it back: {undo}"
                )));
            }
            other => other?,
        };
        let version = |of: &DynamicObject| (of.uid(), of.metadata.generation);
        Ok(Written {
            changed: before.as_ref().map(version) != Some(version(&applied)),
            generation: applied.metadata.generation.unwrap_or_default(),
        })
    }

    /// Waits until every sidecar that needs the object has acknowledged it. Returns those that have not. An error is a reason to look again:
    /// the object is written, and the API server or the control plane may be away for a while.
    pub async fn in_force(
        &self,
        client: &Client,
        args: &ClusterArgs,
        generation: i64,
        longest: Duration,
    ) -> Vec<Pending> {
        let pending = |reason| {
            vec![Pending {
                proxy: self.object_name(),
                reason,
            }]
        };
        if *self == Self::Mesh {
            let look = wait(args, Awaited::Mesh { generation }, longest).await;
            return look.pending;
        }
        let until = Instant::now() + longest;
        loop {
            let reason = match self.look(client, generation).await {
                Ok(Ok(())) => return Vec::new(),
                Ok(Err(reason)) => reason,
                Err(error) => cluster::explain(&error),
            };
            if Instant::now() + POLL >= until {
                return pending(reason);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether a generation of the written object is acknowledged; the inner error is the reason why not.
    ///
    /// # Errors
    /// The object cannot be read, or the control plane refuses it.
    async fn look(&self, client: &Client, generation: i64) -> Result<Result<(), String>> {
        let object: DynamicObject = serde_json::from_value(self.object())?;
        let api = cluster::api_of(client, &object)?;
        let doing = format!("get {}", self.object_name());
        let found = cluster::call(&doing, api.get(&object.name_any())).await?;
        programmed(&found, generation)
    }
}

/// Whether the status reports a generation of an object as acknowledged; the inner error is the reason why not.
///
/// # Errors
/// The control plane refuses the object.
fn programmed(object: &DynamicObject, generation: i64) -> Result<Result<(), String>> {
    let conditions = object.data.pointer("/status/conditions");
    let conditions = conditions.and_then(Value::as_array);
    let text = |of: &Value, field: &str| {
        let text = of.get(field).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let newest = |kind: &str| {
        let mut all = conditions.into_iter().flatten();
        let of = all.find(|of| text(of, "type") == kind)?;
        let observed = of.get("observedGeneration").and_then(Value::as_i64);
        (observed >= Some(generation)).then(|| (text(of, "status"), text(of, "message")))
    };
    if let Some((status, message)) = newest("Accepted")
        && status == "False"
    {
        bail!("{} is not accepted: {message}", cluster::describe(object));
    }
    Ok(match newest("Programmed") {
        None => Err("the control plane has not compiled it".to_owned()),
        Some((status, _)) if status == "True" => Ok(()),
        Some((_, message)) => Err(message),
    })
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::{Json, Router};
    use heddle_policy_compiler::Severity;

    use super::*;

    fn policy(conditions: &Value) -> DynamicObject {
        let mut object = Target::Namespace("shop".to_owned()).object();
        object["status"] = json!({"conditions": conditions});
        serde_json::from_value(object).unwrap()
    }

    fn condition(kind: &str, status: &str, observed: i64) -> Value {
        json!({"type": kind, "status": status, "observedGeneration": observed, "message": "1 of 2"})
    }

    #[test]
    fn an_object_is_in_force_once_its_newest_generation_is_programmed() {
        for (conditions, expected) in [
            (json!([]), Some("the control plane has not compiled it")),
            (
                json!([condition("Programmed", "True", 1)]),
                Some("the control plane has not compiled it"),
            ),
            (json!([condition("Programmed", "False", 2)]), Some("1 of 2")),
            (
                json!([
                    condition("Accepted", "True", 2),
                    condition("Programmed", "True", 2)
                ]),
                None,
            ),
        ] {
            let result = programmed(&policy(&conditions), 2).unwrap();
            assert_eq!(result.err().as_deref(), expected, "{conditions}");
        }
        let refused = policy(&json!([condition("Accepted", "False", 2)]));
        let error = programmed(&refused, 2).unwrap_err().to_string();
        assert!(error.contains("is not accepted: 1 of 2"), "{error}");
    }

    #[tokio::test]
    async fn an_error_after_the_write_is_pending() {
        let refused = json!({"apiVersion": heddle_crds::API_VERSION, "kind": "AuthPolicy",
            "metadata": {"name": POLICY, "namespace": "shop"},
            "status": {"conditions": [condition("Accepted", "False", 2)]}});
        let away = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": "etcd is away", "reason": "InternalError", "code": 500});
        for (code, body, expected) in [
            (StatusCode::OK, refused, "is not accepted: 1 of 2"),
            (StatusCode::INTERNAL_SERVER_ERROR, away, "etcd is away"),
        ] {
            let answer = move || async move { (code, Json(body)) };
            let client = Client::new(Router::new().fallback(answer), "default");
            let args = ClusterArgs { context: None };
            let target = Target::Namespace("shop".to_owned());
            let pending = target.in_force(&client, &args, 2, Duration::ZERO).await;
            let [of] = &*pending else {
                panic!("{pending:?}");
            };
            assert_eq!(of.proxy, "AuthPolicy shop/zz-mtls-strict");
            assert!(of.reason.ends_with(expected), "{}", of.reason);
        }
    }

    #[test]
    fn the_command_that_takes_a_flip_back_restores_the_earlier_mode() {
        for mode in [MeshMode::Permissive, MeshMode::Strict] {
            let undo = Target::Mesh.undo(mode);
            let patch = json!({"spec": {"mode": mode}}).to_string();
            assert!(undo.ends_with(&format!(" -p '{patch}'")), "{undo}");
        }
    }

    #[test]
    fn the_name_of_an_object_is_that_of_the_object() {
        for target in [Target::Namespace("shop".to_owned()), Target::Mesh] {
            let object: DynamicObject = serde_json::from_value(target.object()).unwrap();
            assert_eq!(target.object_name(), cluster::describe(&object));
        }
    }

    #[test]
    fn the_objects_fit_their_kinds() {
        for target in [Target::Namespace("shop".to_owned()), Target::Mesh] {
            let objects = Objects::one(target.object());
            let outcome = objects.compile();
            let mut errors = outcome.findings.iter();
            let wrong = errors.any(|of| of.severity == Severity::Error);
            assert!(!wrong, "{:?}", outcome.findings);
        }
    }
}
