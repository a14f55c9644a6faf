//! The webhook's CA bundle, the one field of its configuration that is ours.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use heddle_identity::Ca;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{CallError, call};
use crate::metrics::{Metrics, Watch};
use crate::tasks::{Ended, chain};

const NAME: &str = "heddle-injector";
const PERIOD: Duration = Duration::from_secs(30);

/// Keeps the bundle in place: somebody may apply the manifest again, or install it after us.
pub(super) async fn keep(
    client: Client,
    ca: Arc<Ca>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Ended {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let mut failing = false;
    loop {
        let result = put(&api, ca.trust_bundle()).await;
        let failed = result.is_err();
        match result {
            Ok(true) => tracing::info!("the webhook's CA bundle was set"),
            Ok(false) => {}
            Err(error) => {
                metrics
                    .write_errors
                    .get_or_create(&Watch {
                        kind: "MutatingWebhookConfiguration",
                    })
                    .inc();
                if !failing {
                    tracing::error!(
                        error = chain(&error),
                        "the webhook's CA bundle could not be set: no pod can be injected; trying again"
                    );
                }
            }
        }
        failing = failed;
        let wait = if failing {
            Duration::from_secs(2)
        } else {
            PERIOD
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Sets the bundle where it is another; returns whether it was.
async fn put(api: &Api<MutatingWebhookConfiguration>, bundle: &str) -> Result<bool, CallError> {
    let present = call(api.get(NAME)).await?;
    let webhooks = present.webhooks.unwrap_or_default();
    let right = |webhook: &k8s_openapi::api::admissionregistration::v1::MutatingWebhook| {
        webhook
            .client_config
            .ca_bundle
            .as_ref()
            .is_some_and(|present| present.0 == bundle.as_bytes())
    };
    if webhooks.iter().all(right) {
        return Ok(false);
    }
    // By server-side apply: the list is keyed by name, so this owns one field of each entry and nothing else.
    let names = webhooks.iter().map(|webhook| webhook.name.as_str());
    let params = PatchParams::apply("heddle-operator-cabundle").force();
    call(api.patch(NAME, &params, &Patch::Apply(body(names, bundle)))).await?;
    Ok(true)
}

fn body<'a>(names: impl Iterator<Item = &'a str>, bundle: &str) -> Value {
    let bundle = STANDARD.encode(bundle);
    let webhooks: Vec<Value> = names
        .map(|name| json!({"name": name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": webhooks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_bundles_are_applied() {
        let body = body(["a", "b"].into_iter(), "x");
        assert_eq!(
            body["webhooks"],
            json!([{"name": "a", "clientConfig": {"caBundle": "eA=="}}, {"name": "b", "clientConfig": {"caBundle": "eA=="}}])
        );
    }
}
