//! The parts of a bug report that the API server has. Secrets and ConfigMaps are not among them.

use std::io::Write;

use anyhow::Result;
use heddle_policy_compiler::{ObjectKind, Role};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::archive::{Archive, Keep};
use crate::cluster::{self, NAMESPACE, WEBHOOK};
use crate::sources::Objects;
use crate::{analyze, version};

/// The last lines of each log.
const LOG_LINES: i64 = 10_000;
/// The most that is read of each log, in bytes.
const LOG_BYTES: i64 = 32 << 20;
/// The most Events of a selection.
const EVENTS: u32 = 2000;

/// The objects of the control plane, beside its pods.
const OF_CONTROL_PLANE: [(&str, &str, Option<&str>); 6] = [
    ("apps/v1", "Deployment", Some(NAMESPACE)),
    ("apps/v1", "ReplicaSet", Some(NAMESPACE)),
    ("v1", "Pod", Some(NAMESPACE)),
    ("v1", "Service", Some(NAMESPACE)),
    ("policy/v1", "PodDisruptionBudget", Some(NAMESPACE)),
    ("coordination.k8s.io/v1", "Lease", Some(NAMESPACE)),
];

/// The control plane: versions, objects, logs.
///
/// # Errors
/// The archive cannot be written. A part that cannot be read is missing in it.
pub async fn control_plane<W: Write>(client: &Client, archive: &mut Archive<W>) -> Result<()> {
    crate::out::note!("heddle: control plane");
    archive.text("version.txt", versions(client).await, Keep::Head)?;
    for (api_version, kind, namespace) in OF_CONTROL_PLANE {
        let objects = cluster::list(client, api_version, kind, namespace).await;
        let path = format!("control-plane/{}.json", kind.to_lowercase());
        archive.objects(&path, objects.and_then(values))?;
    }
    archive.objects("control-plane/webhooks.json", webhook(client).await)?;
    logs(client, archive).await
}

/// The webhook of the mesh alone: those of other projects are not part of it.
async fn webhook(client: &Client) -> Result<Vec<Value>> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhook = cluster::find("read the webhook", api.get(WEBHOOK)).await?;
    let values = webhook.iter().map(serde_json::to_value);
    Ok(values.collect::<Result<_, _>>()?)
}

async fn versions(client: &Client) -> Result<String> {
    let images = version::images(client).await?;
    let server =
        cluster::call("read the version of Kubernetes", client.apiserver_version()).await?;
    Ok(format!(
        "heddle {}\ncontrol plane: {images}\nkubernetes: {}\n",
        env!("CARGO_PKG_VERSION"),
        server.git_version
    ))
}

/// The logs of each container of each pod, and of the one before it that ended.
async fn logs<W: Write>(client: &Client, archive: &mut Archive<W>) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let all = ListParams::default();
    let pods = cluster::call("list the pods of the control plane", api.list(&all)).await;
    let pods = match pods {
        Ok(pods) => pods.items,
        Err(error) => {
            archive.lacks("logs", &cluster::explain(&error));
            return Ok(());
        }
    };
    for pod in pods {
        let name = pod.name_any();
        crate::out::note!("heddle: logs of {name}");
        let statuses = pod.status.and_then(|status| status.container_statuses);
        for status in statuses.unwrap_or_default() {
            let ended = status
                .last_state
                .and_then(|state| state.terminated)
                .is_some();
            for previous in [false, true].into_iter().filter(|before| !before || ended) {
                let params = LogParams {
                    container: Some(status.name.clone()),
                    previous,
                    tail_lines: Some(LOG_LINES),
                    limit_bytes: Some(LOG_BYTES),
                    timestamps: true,
                    ..LogParams::default()
                };
                let text = cluster::call("read the log", api.logs(&name, &params)).await;
                let suffix = if previous { ".previous" } else { "" };
                let path = format!("logs/{name}/{}{suffix}.log", status.name);
                archive.text(&path, text, Keep::Tail)?;
            }
        }
    }
    Ok(())
}

/// The objects that the mesh is made of, with statuses, Events and findings.
///
/// # Errors
/// The archive cannot be written. A part that cannot be read is missing in it.
pub async fn objects<W: Write>(client: &Client, archive: &mut Archive<W>) -> Result<()> {
    crate::out::note!("heddle: objects");
    let mut api_versions = Vec::new();
    for (kind, resource) in ObjectKind::watched() {
        match kind.role() {
            Role::Settings | Role::Policy => {}
            Role::Input(_) => continue,
        }
        let objects = cluster::list_all(client, kind, &resource).await;
        // The plurals of two groups may be equal, and names of kinds are not.
        let name = match kind.as_str() == kind.api_kind() {
            true => resource.plural.to_owned(),
            false => format!("{}.{}", resource.plural, resource.group),
        };
        let path = format!("objects/{name}.json");
        archive.objects(&path, objects.and_then(values))?;
        api_versions.push(resource.api_version());
    }
    api_versions.sort();
    api_versions.dedup();
    for api_version in api_versions {
        let group = api_version.replace('/', "-");
        let fields = format!("involvedObject.apiVersion={api_version}");
        let events = events(Api::all(client.clone()), &fields).await;
        archive.objects(&format!("events/{group}.json"), events)?;
    }
    let own = events(Api::namespaced(client.clone(), NAMESPACE), "").await;
    archive.objects("events/control-plane.json", own)?;
    crate::out::note!("heddle: findings");
    let all = Objects::from_cluster(client).await;
    let text = all.map(|objects| analyze::text(&objects.compile()));
    archive.text("analyze.txt", text, Keep::Head)
}

async fn events(api: Api<Event>, fields: &str) -> Result<Vec<Value>> {
    let params = ListParams::default().limit(EVENTS);
    let params = match fields {
        "" => params,
        some => params.fields(some),
    };
    let events = cluster::call("list the Events", api.list(&params)).await?;
    let events = events.items.iter().map(serde_json::to_value);
    Ok(events.collect::<Result<_, _>>()?)
}

fn values(objects: Vec<kube::api::DynamicObject>) -> Result<Vec<Value>> {
    let values = objects.iter().map(serde_json::to_value);
    Ok(values.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::Request;
    use axum::response::{IntoResponse, Response};
    use axum::{Json, Router};
    use http::StatusCode;
    use serde_json::json;

    use super::super::archive::unpack;
    use super::*;

    /// A cluster full of secrets. It refuses lists of leases.
    fn answer(path: &str) -> Response {
        if path.ends_with("/log") {
            return "login password=planted\nAuthorization: Bearer planted\n-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----\n".into_response();
        }
        if path.ends_with("/leases") {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "no right, token=planted", "reason": "Forbidden", "code": 403});
            return (StatusCode::FORBIDDEN, Json(status)).into_response();
        }
        if path.matches('/').count() == 3 && path.starts_with("/apis/") {
            let resources = json!({"kind": "APIResourceList", "groupVersion": "", "resources": []});
            return Json(resources).into_response();
        }
        if path == "/version" {
            let version = json!({"major": "1", "minor": "34", "gitVersion": "v1.34.1", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
            return Json(version).into_response();
        }
        let item = json!({
            "metadata": {"name": "a", "namespace": "shop", "uid": "u",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "planted"}},
            "spec": {
                "template": {"spec": {"containers": [{"name": "app", "image": "app", "env": [{"name": "X", "value": "planted"}]}]}},
                "containers": [{"name": "app", "env": [{"name": "X", "value": "planted"}]}],
                "headers": {"set": [{"name": "authorization", "value": "planted"}]}},
            "status": {"lastGood": {"json": r#"{"headers":{"request":{"set":[{"name":"x-api-key","value":"planted"}]}}}"#},
                "containerStatuses": [{"name": "app", "image": "app", "imageID": "", "ready": true, "restartCount": 1,
                "lastState": {"terminated": {"exitCode": 1}}}]},
            "involvedObject": {}, "message": "https://u:planted@host/",
        });
        if path.ends_with("/heddle-injector") {
            return Json(json!({"metadata": {"name": "heddle-injector"},
                "webhooks": [{"name": "a", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {"caBundle": "planted1"}}]}))
            .into_response();
        }
        let item = match path.ends_with("heddle-operator") {
            true => {
                let template =
                    json!({"spec": {"containers": [{"name": "app", "image": "heddle:1"}]}});
                json!({"metadata": {"name": "heddle-operator"}, "spec": {"selector": {}, "template": template}})
            }
            false => json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [item]}),
        };
        Json(item).into_response()
    }

    #[tokio::test]
    async fn no_secret_of_a_cluster_is_in_its_report_and_secrets_are_not_asked_for() {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let paths = Arc::clone(&asked);
        let router = Router::new().fallback(move |request: Request| async move {
            let path = request.uri().path().to_owned();
            paths.lock().unwrap().push(path.clone());
            answer(&path)
        });
        let client = Client::new(router, "default");
        let mut archive = Archive::new(Vec::new(), "report", 0, 1 << 20);
        control_plane(&client, &mut archive).await.unwrap();
        objects(&client, &mut archive).await.unwrap();
        let (bytes, missing) = archive.end().unwrap();
        let parts = unpack(&bytes);
        for (path, text) in &parts {
            assert!(!text.contains("planted"), "{path}: {text}");
        }
        for (path, says) in [
            ("version.txt", "heddle:1\nkubernetes: v1.34.1"),
            ("control-plane/deployment.json", "\"value\": \"[redacted]\""),
            (
                "control-plane/webhooks.json",
                "\"caBundle\": \"[redacted]\"",
            ),
            ("logs/a/app.log", "login password=[redacted]"),
            ("logs/a/app.previous.log", "[redacted]"),
            ("objects/authpolicies.json", "\"kind\": \"AuthPolicy\""),
            ("objects/httproutes.json", "\"kind\": \"HTTPRoute\""),
            (
                "events/heddle.dev-v1alpha1.json",
                "https://[redacted]@host/",
            ),
            ("events/control-plane.json", "[redacted]"),
            ("manifest.json", "no right, token=[redacted]"),
        ] {
            let text = parts.get(&format!("report/{path}"));
            let text = text.unwrap_or_else(|| panic!("no {path} in {:?}", parts.keys()));
            assert!(text.contains(says), "no {says:?} in {path}: {text}");
        }
        assert_eq!(missing, 1);
        let asked = asked.lock().unwrap();
        assert!(!asked.iter().any(|path| path.contains("secrets")
            || path.contains("configmaps")
            || path.ends_with("webhookconfigurations")));
    }
}
