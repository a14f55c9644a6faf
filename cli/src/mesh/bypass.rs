//! `heddle mesh bypass`: edits the list of bypassed namespaces, and waits for the sidecars.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use heddle_acceptor::clean;
use heddle_policy_compiler::world::is_namespace_name;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use serde::Serialize;
use serde_json::{Value, json};

use super::effect::Effect;
use super::wait::{Acknowledged, Awaited, wait};
use crate::cluster::{self, ClusterArgs, refusal};
use crate::findings::plural;
use crate::manifests;
use crate::out::Format;
use crate::sources::Objects;

/// The field manager of the change.
const MANAGER: &str = "heddle-cli";
/// So often a change that came between is read again.
const ATTEMPTS: usize = 5;
/// The longest list of names in text, in characters.
const MAX_NAMES: usize = 2000;

/// Options of `heddle mesh bypass`.
#[derive(Args, Debug)]
pub struct BypassArgs {
    /// The namespace.
    namespace: String,
    /// Put it back: its sidecars enforce again.
    #[arg(long)]
    off: bool,
    /// Change nothing; print the change. The API server checks the change and your rights.
    #[arg(long)]
    dry_run: bool,
    /// The longest wait for the sidecars, in seconds; 0: none.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The result, as one document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    namespace: &'a str,
    /// Whether the Mesh bypasses it after the command, or would.
    bypassed: bool,
    /// Whether the Mesh was changed, or would be.
    changed: bool,
    dry_run: bool,
    #[serde(flatten)]
    effect: &'a Effect,
    /// None: there was no wait.
    #[serde(flatten)]
    acknowledged: Option<&'a Acknowledged>,
}

/// Runs the command.
///
/// # Errors
/// The argument is not the name of a namespace, or the namespace has no pod with a sidecar; the API server does not answer, or the Mesh is
/// not there or changes again and again; or a sidecar has not acknowledged the change in time.
pub async fn run(args: &BypassArgs) -> Result<()> {
    let namespace = &*args.namespace;
    ensure!(
        is_namespace_name(namespace),
        "\"{namespace}\" is not the name of a namespace; use lower-case letters, digits and dashes, 63 at most"
    );
    let client = args.cluster.client().await?;
    let compiled = Objects::from_cluster(&client).await?.compile().compiled;
    let effect = Effect::of(&compiled, namespace);
    // To end a bypass is always possible.
    if !args.off && effect.sidecars == 0 {
        bail!(
            "namespace {namespace} has no pod with a sidecar, so there is nothing to bypass; correct the name"
        );
    }
    let changed = set(&client, namespace, !args.off, args.dry_run).await?;
    let acknowledged = match args.dry_run || args.timeout == 0 {
        true => None,
        false => {
            let longest = Duration::from_secs(args.timeout);
            let awaited = Awaited::Bypass {
                namespace,
                bypassed: !args.off,
            };
            Some(wait(&args.cluster, awaited, longest).await)
        }
    };
    let report = Report {
        namespace,
        bypassed: !args.off,
        changed,
        dry_run: args.dry_run,
        effect: &effect,
        acknowledged: acknowledged.as_ref(),
    };
    args.output.print(&report, || text(&report))?;
    match acknowledged {
        Some(of) if !of.pending.is_empty() => bail!(
            "{} of {namespace} did not acknowledge in {} s, and the change stays; run heddle proxy status -n {namespace}, or repeat the command to wait on",
            plural(of.pending.len(), "sidecar"),
            args.timeout
        ),
        Some(_) | None => Ok(()),
    }
}

/// Changes the list in the Mesh that counts. Returns whether it differs.
async fn set(client: &kube::Client, namespace: &str, bypassed: bool, dry: bool) -> Result<bool> {
    let mesh = manifests::mesh()?;
    let what = cluster::describe(&mesh);
    let name = mesh.metadata.name.as_deref().unwrap_or_default();
    let api = cluster::api_of(client, &mesh)?;
    for _ in 0..ATTEMPTS {
        let found = cluster::find(&format!("get {what}"), api.get(name)).await?;
        let found = found.with_context(|| {
            format!("{what} does not exist; create it by heddle install --apply")
        })?;
        let Some(list) = edited(&found, namespace, bypassed) else {
            return Ok(false);
        };
        match patch(&api, name, &found, list, dry).await {
            Ok(()) => return Ok(true),
            // The object changed meanwhile: a list from before would undo another bypass, or its end.
            Err(error) if refusal(&error) == Some(409) => {}
            Err(error) => return Err(error.context(format!("change {what}"))),
        }
    }
    bail!("{what} changed {ATTEMPTS} times meanwhile; repeat the command")
}

async fn patch(
    api: &Api<DynamicObject>,
    name: &str,
    found: &DynamicObject,
    list: Vec<Value>,
    dry_run: bool,
) -> Result<()> {
    let patch = json!({
        "metadata": {"resourceVersion": found.metadata.resource_version, "uid": found.metadata.uid},
        "spec": {"bypassedNamespaces": list},
    });
    let params = PatchParams {
        dry_run,
        field_manager: Some(MANAGER.to_owned()),
        // A definition of an older version drops the list without it.
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(patch);
    cluster::call("patch", api.patch(name, &params, &patch)).await?;
    Ok(())
}

/// The list with the namespace, or without it; other elements stay as they are. None: it is so already.
fn edited(mesh: &DynamicObject, namespace: &str, bypassed: bool) -> Option<Vec<Value>> {
    let list = mesh.data.pointer("/spec/bypassedNamespaces");
    let list = list.and_then(Value::as_array).cloned().unwrap_or_default();
    let is_it = |of: &Value| of.get("namespace").and_then(Value::as_str) == Some(namespace);
    if list.iter().any(is_it) == bypassed {
        return None;
    }
    let mut list: Vec<Value> = list.into_iter().filter(|of| !is_it(of)).collect();
    if bypassed {
        list.push(json!({"namespace": namespace}));
    }
    Some(list)
}

fn text(report: &Report<'_>) -> String {
    let namespace = report.namespace;
    let mut lines = Vec::new();
    let state = match (report.bypassed, report.changed, report.dry_run) {
        (true, true, true) => "would be bypassed",
        (false, true, true) => "would be enforced again",
        (true, true, false) => "is bypassed",
        (false, true, false) => "is enforced again",
        (true, false, _) => "is bypassed already",
        (false, false, _) => "is not bypassed",
    };
    let sidecars = plural(report.effect.sidecars, "sidecar");
    lines.push(format!("namespace {namespace} {state}: {sidecars}"));
    let mut list = |title: &str, names: &[String]| {
        if !names.is_empty() {
            let names = clean(&names.join(", "), MAX_NAMES);
            lines.push(format!("  {title}: {names}"));
        }
    };
    let not = if report.bypassed { "not " } else { "" };
    list(
        &format!("objects of the namespace that are {not}in force for its sidecars"),
        &report.effect.policies,
    );
    let plain = match report.bypassed {
        true => "plain text is accepted at",
        false => "plain text is no longer accepted at",
    };
    list(plain, &report.effect.plain_ports);
    if let Some(of) = report.acknowledged {
        let (done, all) = (of.acknowledged, of.acknowledged + of.pending.len());
        lines.push(format!("  acknowledged by {done} of {all}"));
        let pending = of
            .pending
            .iter()
            .map(|of| format!("{}: {}", of.proxy, of.reason));
        lines.extend(pending.map(|of| format!("  pending: {}", clean(&of, MAX_NAMES))));
    }
    lines.join("\n")
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let effect = Effect {
        sidecars: 1,
        policies: of.texts(),
        plain_ports: of.texts(),
    };
    let acknowledged = Acknowledged {
        acknowledged: 1,
        pending: vec![super::wait::Pending {
            proxy: of.text.clone(),
            reason: of.text.clone(),
        }],
    };
    text(&Report {
        namespace: "shop",
        bypassed: true,
        changed: true,
        dry_run: false,
        effect: &effect,
        acknowledged: Some(&acknowledged),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(list: &Value) -> DynamicObject {
        let object = json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"},
            "spec": {"bypassedNamespaces": list}});
        serde_json::from_value(object).unwrap()
    }

    #[tokio::test]
    async fn a_definition_without_the_list_refuses_the_change() {
        let answer = |uri: axum::http::Uri| async move {
            let query = uri.query().unwrap_or_default().to_owned();
            let strict = query.split('&').any(|of| of == "fieldValidation=Strict");
            assert!(strict, "the API server would drop the list: {query}");
            axum::Json(mesh(&json!([])))
        };
        let client = kube::Client::new(axum::Router::new().fallback(answer), "default");
        let found = mesh(&Value::Null);
        let api = cluster::api_of(&client, &found).unwrap();
        patch(&api, "default", &found, Vec::new(), true)
            .await
            .unwrap();
    }

    #[test]
    fn only_the_named_namespace_comes_and_goes() {
        let both = mesh(&json!([{"namespace": "shop"}, {"namespace": "till", "later": 1}]));
        assert_eq!(edited(&both, "shop", true), None);
        assert_eq!(
            edited(&both, "shop", false).unwrap(),
            [json!({"namespace": "till", "later": 1})]
        );
        let none = mesh(&Value::Null);
        assert_eq!(edited(&none, "shop", false), None);
        assert_eq!(
            edited(&none, "shop", true).unwrap(),
            [json!({"namespace": "shop"})]
        );
    }
}
