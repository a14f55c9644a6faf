//! The control plane itself: definitions, replicas, webhook, root certificate.

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use kube::api::ListParams;
use kube::{Api, Client};

use super::workloads::named;
use super::{Outcome, root};
use crate::cluster::{self, NAMESPACE, WEBHOOK};

const DEPLOYMENT: &str = "heddle-operator";
const SERVICE: &str = "heddle";
/// After its last progress, a Deployment may still lack its consequences: endpoints, the webhook's CA bundle.
const SETTLING_SECONDS: i64 = 20;
const INSTALL: &str = "heddle install --apply --wait";

pub(super) async fn all(client: &Client) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for kind in heddle_crds::Kind::ALL {
        outcomes.push(Outcome::of(definition(client, *kind).await, kind.name()));
    }
    outcomes.push(Outcome::of(mesh(client).await, "Mesh"));
    outcomes.push(Outcome::of(replicas(client).await, "replicas"));
    outcomes.push(Outcome::of(webhook(client).await, "webhook"));
    outcomes.push(Outcome::of(
        endpoints(client).await,
        "endpoints of the control plane",
    ));
    outcomes.push(Outcome::of(root::root(client).await, "root certificate"));
    outcomes.push(Outcome::of(
        root::trust(client).await,
        "trust of the sidecars",
    ));
    outcomes
}

/// Whether the Deployment is still starting or replacing its pods, or ended doing so just now.
pub(super) async fn in_progress(client: &Client) -> bool {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let found = cluster::find("get the Deployment", api.get(DEPLOYMENT)).await;
    found
        .ok()
        .flatten()
        .is_some_and(|deployment| progresses(&deployment, now()))
}

fn progresses(deployment: &Deployment, now: i64) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    // The controller has not seen this generation yet.
    if status.observed_generation < deployment.metadata.generation {
        return true;
    }
    let conditions = status.conditions.unwrap_or_default();
    let Some(progressing) = conditions.iter().find(|c| c.type_ == "Progressing") else {
        return false;
    };
    let updated = progressing.last_update_time.as_ref();
    let recent = updated.is_some_and(|time| now - time.0.as_second() < SETTLING_SECONDS);
    progressing.status == "True"
        && (progressing.reason.as_deref() != Some("NewReplicaSetAvailable") || recent)
}

async fn definition(client: &Client, kind: heddle_crds::Kind) -> Result<Outcome> {
    let name = format!("{}.{}", kind.plural(), heddle_crds::GROUP);
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let Some(definition) = cluster::find(&format!("get {name}"), api.get(&name)).await? else {
        return Ok(Outcome::Fail(
            format!("{name} is not installed"),
            INSTALL.to_owned(),
        ));
    };
    let conditions = definition
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    let established = conditions
        .iter()
        .any(|condition| condition.type_ == "Established" && condition.status == "True");
    let served = definition
        .spec
        .versions
        .iter()
        .any(|version| version.served && version.name == heddle_crds::VERSION);
    if !established || !served {
        let fault = format!("{name} is not served as {}", heddle_crds::VERSION);
        return Ok(Outcome::Fail(fault, INSTALL.to_owned()));
    }
    let missing = missing(kind, &definition.spec.versions)?;
    Ok(match &*missing {
        [] => Outcome::Ok(format!("{name} is served as {}", heddle_crds::VERSION)),
        fields => older(&name, kind, fields),
    })
}

/// The fields of a kind that its definition in the cluster does not have.
fn missing(
    kind: heddle_crds::Kind,
    versions: &[CustomResourceDefinitionVersion],
) -> Result<Vec<String>> {
    let mut versions = versions.iter();
    let version = versions.find(|version| version.name == heddle_crds::VERSION);
    let schema = version.and_then(|version| version.schema.as_ref());
    let schema = schema.and_then(|schema| schema.open_api_v3_schema.as_ref());
    Ok(kind.missing_from(&serde_json::to_value(schema)?))
}

/// The definition is of an older version, and the API server drops fields. An object without such a field can mean another one.
fn older(name: &str, kind: heddle_crds::Kind, missing: &[String]) -> Outcome {
    let fields: Vec<&str> = missing.iter().map(String::as_str).collect();
    Outcome::Fail(
        format!(
            "{name} is older than this heddle ({}): the API server drops {} from every {}",
            env!("CARGO_PKG_VERSION"),
            named(&fields),
            kind.name()
        ),
        format!(
            "{INSTALL}, or kubectl apply --server-side --force-conflicts -k config/crd (helm upgrade leaves definitions as they are); then apply the objects with these fields again"
        ),
    )
}

/// The settings: without a Mesh, `kubectl get mesh` shows nothing although every default is in force.
async fn mesh(client: &Client) -> Result<Outcome> {
    let meshes = cluster::list(client, heddle_crds::API_VERSION, "Mesh", None).await?;
    Ok(if meshes.is_empty() {
        Outcome::Note(
            "there is no Mesh object; every setting has its default".to_owned(),
            format!("{INSTALL} creates one, and so does kubectl apply -f config/samples/mesh.yaml"),
        )
    } else {
        Outcome::Ok("the settings are in Mesh default".to_owned())
    })
}

async fn replicas(client: &Client) -> Result<Outcome> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let Some(deployment) = cluster::find("get the Deployment", api.get(DEPLOYMENT)).await? else {
        return Ok(Outcome::Fail(
            format!("Deployment {NAMESPACE}/{DEPLOYMENT} is not there"),
            INSTALL.to_owned(),
        ));
    };
    let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment
        .status
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0);
    let seen = format!("{ready} of {wanted} replicas are ready");
    Ok(if wanted == 0 {
        Outcome::Fail(
            "the control plane is scaled to 0".to_owned(),
            format!(
                "repeat heddle ca reset --yes if one was interrupted, or kubectl -n {NAMESPACE} scale deployment/{DEPLOYMENT} --replicas=2"
            ),
        )
    } else if ready >= wanted {
        Outcome::Ok(seen)
    } else {
        Outcome::Fail(seen, format!("kubectl -n {NAMESPACE} describe pods"))
    })
}

async fn webhook(client: &Client) -> Result<Outcome> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let Some(configuration) = cluster::find("get the webhook", api.get(WEBHOOK)).await? else {
        return Ok(Outcome::Fail(
            format!("MutatingWebhookConfiguration {WEBHOOK} is not there: no pod gets a sidecar"),
            INSTALL.to_owned(),
        ));
    };
    let webhooks = configuration.webhooks.unwrap_or_default();
    let bare: Vec<&str> = webhooks
        .iter()
        .filter(|webhook| {
            webhook
                .client_config
                .ca_bundle
                .as_ref()
                .is_none_or(|bundle| bundle.0.is_empty())
        })
        .map(|webhook| webhook.name.as_str())
        .collect();
    Ok(if bare.is_empty() {
        Outcome::Ok(format!(
            "the webhook has its CA bundle ({} rules)",
            webhooks.len()
        ))
    } else {
        let fix =
            format!("the operator writes it: kubectl -n {NAMESPACE} logs deploy/{DEPLOYMENT}");
        Outcome::Fail(
            format!(
                "no caBundle in {}: pods of the mesh cannot start",
                bare.join(", ")
            ),
            fix,
        )
    })
}

async fn endpoints(client: &Client) -> Result<Outcome> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={SERVICE}"));
    let slices = cluster::call("list the control plane's endpoints", api.list(&params)).await?;
    let endpoints = slices.items.iter().flat_map(|slice| slice.endpoints.iter());
    let ready = endpoints
        .filter(|endpoint| {
            endpoint
                .conditions
                .as_ref()
                .and_then(|c| c.ready)
                .unwrap_or(true)
        })
        .count();
    Ok(if ready > 0 {
        Outcome::Ok(format!(
            "Service {NAMESPACE}/{SERVICE} has {ready} ready endpoints"
        ))
    } else {
        let fix = format!(
            "kubectl -n {NAMESPACE} get pods -o wide; until then pods of the mesh cannot start"
        );
        Outcome::Fail(
            format!("Service {NAMESPACE}/{SERVICE} has no ready endpoint"),
            fix,
        )
    })
}

fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router};
    use serde_json::{Value, json};

    use super::*;
    use crate::fake::Server;

    #[tokio::test]
    async fn a_control_plane_that_is_scaled_to_0_is_a_failure() {
        let path = "/apis/apps/v1/namespaces/heddle-system/deployments/heddle-operator";
        for (wanted, ready, fits) in [(0, 0, false), (2, 1, false), (2, 2, true)] {
            let deployment = json!({"metadata": {"name": DEPLOYMENT}, "status": {"readyReplicas": ready},
                "spec": {"replicas": wanted, "selector": {}, "template": {}}});
            let server = Server::with([(path, deployment)]);
            let outcome = replicas(&server.client()).await.unwrap();
            assert_eq!(
                matches!(outcome, Outcome::Ok(_)),
                fits,
                "{ready} of {wanted}"
            );
        }
    }

    #[tokio::test]
    async fn a_definition_that_lacks_a_field_is_a_failure_with_the_field_and_the_fix() {
        let kind = heddle_crds::Kind::TrafficPolicy;
        let mut crd = serde_json::to_value(kind.crd()).unwrap();
        crd["status"] = json!({"conditions": [{"type": "Established", "status": "True", "reason": "", "message": "",
            "lastTransitionTime": null}], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
        let mut found = Vec::new();
        for field in ["", "namespace", "route"] {
            let target = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/target/properties";
            let target = crd.pointer_mut(target).unwrap();
            target.as_object_mut().unwrap().remove(field);
            let answer = Json(crd.clone());
            let client = Client::new(Router::new().fallback(move || async { answer }), "default");
            found.push(match definition(&client, kind).await.unwrap() {
                Outcome::Fail(fault, fix) => format!("{fault}\n{fix}"),
                Outcome::Ok(_) | Outcome::Note(..) => String::new(),
            });
        }
        let [whole, one, two] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(whole, "");
        let drops = "the API server drops spec.target.namespace from every TrafficPolicy\nheddle install --apply --wait, or kubectl apply ";
        assert!(
            one.starts_with("trafficpolicies.heddle.dev is older than this heddle"),
            "{one}"
        );
        assert!(one.contains(drops), "{one}");
        assert!(
            two.contains(" spec.target.namespace, spec.target.route from "),
            "{two}"
        );
    }

    const NOW: i64 = 1_800_000_000;

    fn progresses_with(generation: i64, conditions: &Value) -> bool {
        let deployment = json!({
            "metadata": {"generation": generation},
            "status": {"observedGeneration": 2, "conditions": conditions},
        });
        progresses(&serde_json::from_value(deployment).unwrap(), NOW)
    }

    fn progressing(status: &str, reason: &str, updated: &str) -> Value {
        json!([
            {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"},
            {"type": "Progressing", "status": status, "reason": reason, "lastUpdateTime": updated},
        ])
    }

    #[test]
    fn a_deployment_is_in_progress_until_its_replicas_are_there_or_it_gave_up() {
        // 2027-01-15T08:00:00Z is `NOW`.
        let (recent, old) = ("2027-01-15T07:59:50Z", "2027-01-15T07:00:00Z");
        for (expected, generation, conditions) in [
            (true, 3, progressing("True", "NewReplicaSetAvailable", old)),
            (true, 2, progressing("True", "ReplicaSetUpdated", old)),
            (
                true,
                2,
                progressing("True", "NewReplicaSetAvailable", recent),
            ),
            (false, 2, progressing("True", "NewReplicaSetAvailable", old)),
            (
                false,
                2,
                progressing("False", "ProgressDeadlineExceeded", recent),
            ),
            (false, 2, json!([])),
        ] {
            let answer = progresses_with(generation, &conditions);
            assert_eq!(answer, expected, "generation {generation}: {conditions}");
        }
    }
}
