//! Faults as filters before the router, so that no retry sees them.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{
    FaultDelay, fault_delay::FaultDelaySecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort::ErrorType,
};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::request_match::headers;
use super::{any, duration, extension, fraction};
use crate::traffic::{Abort, Delay, Fault, FaultAnswer};

/// The filter of a fault.
pub(super) fn filter(index: usize, of: &Fault) -> TypedExtensionConfig {
    let config = HttpFault {
        delay: of.delay.map(delay),
        abort: of.abort.map(abort),
        headers: headers(&of.matcher),
        // Else the header x-envoy-downstream-service-cluster of a request would name a series.
        disable_downstream_cluster_stats: true,
        ..Default::default()
    };
    extension(&format!("fault-{index}"), any(&config))
}

fn delay(of: Delay) -> FaultDelay {
    FaultDelay {
        percentage: fraction(of.percent, DenominatorType::Hundred),
        fault_delay_secifier: duration(of.time).map(FaultDelaySecifier::FixedDelay),
    }
}

fn abort(of: Abort) -> FaultAbort {
    FaultAbort {
        percentage: fraction(of.percent, DenominatorType::Hundred),
        error_type: Some(match of.answer {
            FaultAnswer::Status(status) => ErrorType::HttpStatus(status.into()),
            FaultAnswer::Grpc(code) => ErrorType::GrpcStatus(code.into()),
        }),
        ..Default::default()
    }
}
