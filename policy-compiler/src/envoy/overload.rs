//! Protection from overload as filters of the server's sidecar, after authorization and rate limits.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::adaptive_concurrency::v3 as adaptive;
use envoy_types::pb::envoy::extensions::filters::http::admission_control::v3 as admission;
use envoy_types::pb::envoy::r#type::v3::Percent;

use super::{any, duration, extension, number};
use crate::traffic::{AdaptiveConcurrency, AdmissionControl, Overload};

/// How often the bound follows the latency.
const UPDATE: Duration = Duration::from_millis(100);
/// How often the latency without load is measured.
const MEASURE: Duration = Duration::from_secs(60);

/// The filters of a protection. The share is refused before the bound measures latencies: refusals are quick, and would raise it.
pub(super) fn filters(
    index: usize,
    of: &Overload,
) -> impl Iterator<Item = core::TypedExtensionConfig> {
    let admission = of.admission.as_ref();
    let admission =
        admission.map(|of| extension(&format!("admission-{index}"), any(&admission_control(of))));
    let concurrency = of.concurrency.as_ref();
    let concurrency = concurrency.map(|of| {
        extension(
            &format!("concurrency-{index}"),
            any(&adaptive_concurrency(of)),
        )
    });
    admission.into_iter().chain(concurrency)
}

fn adaptive_concurrency(of: &AdaptiveConcurrency) -> adaptive::AdaptiveConcurrency {
    use adaptive::adaptive_concurrency::ConcurrencyControllerConfig::GradientControllerConfig as Gradient;
    use adaptive::gradient_controller_config as gradient;
    let gradient = adaptive::GradientControllerConfig {
        concurrency_limit_params: Some(gradient::ConcurrencyLimitCalculationParams {
            max_concurrency_limit: number(of.max),
            concurrency_update_interval: duration(UPDATE),
            ..Default::default()
        }),
        min_rtt_calc_params: Some(gradient::MinimumRttCalculationParams {
            interval: duration(MEASURE).filter(|_| of.latency.is_none()),
            fixed_value: of.latency.and_then(duration),
            min_concurrency: number(of.min),
            ..Default::default()
        }),
        ..Default::default()
    };
    adaptive::AdaptiveConcurrency {
        concurrency_controller_config: Some(Gradient(gradient)),
        ..Default::default()
    }
}

fn admission_control(of: &AdmissionControl) -> admission::AdmissionControl {
    use admission::admission_control::{EvaluationCriteria, SuccessCriteria};
    admission::AdmissionControl {
        // Envoy's defaults: status below 500; of gRPC those that fewer requests would not change.
        evaluation_criteria: Some(EvaluationCriteria::SuccessCriteria(
            SuccessCriteria::default(),
        )),
        sampling_window: duration(of.window),
        sr_threshold: percent(of.success_percent),
        rps_threshold: Some(core::RuntimeUInt32 {
            default_value: of.min_rate,
            // Envoy demands a key; no runtime value has this name.
            runtime_key: "heddle.admission.rate".to_owned(),
        }),
        max_rejection_probability: percent(of.max_refused_percent),
        ..Default::default()
    }
}

/// A percentage that no runtime value changes; Envoy demands a key.
fn percent(value: u32) -> Option<core::RuntimePercent> {
    Some(core::RuntimePercent {
        default_value: Some(Percent {
            value: f64::from(value),
        }),
        runtime_key: "heddle.admission.percent".to_owned(),
    })
}
