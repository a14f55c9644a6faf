//! Faults as filters before the router, so that no retry sees them.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{
    FaultDelay, fault_delay::FaultDelaySecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort::ErrorType,
};
use envoy_types::pb::envoy::extensions::filters::http::filter_chain::v3::{
    FilterChain, FilterChainConfigPerRoute,
};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::Any;
use std::sync::Arc;

use super::request_match::header;
use super::wire::envoy::config::route::v3;
use super::{any, duration, extension};
use crate::traffic::{Abort, Delay, Fault, FaultAnswer, PathMatcher, ValueMatcher};

/// The filters of faults, for the slot that each connection manager has. None: there are no faults.
pub(super) fn chain(faults: &[Fault]) -> Option<Any> {
    if faults.is_empty() {
        return None;
    }
    let filters = faults.iter().enumerate();
    let filters = filters.map(|(index, of)| filter(index, of)).collect();
    Some(any(&FilterChainConfigPerRoute {
        filter_chain: Some(FilterChain { filters }),
    }))
}

fn filter(index: usize, of: &Fault) -> TypedExtensionConfig {
    let config = HttpFault {
        delay: of.delay.map(delay),
        abort: of.abort.map(abort),
        headers: headers(of),
        // Else the header x-envoy-downstream-service-cluster of a request would name a series.
        disable_downstream_cluster_stats: true,
        ..Default::default()
    };
    extension(&format!("fault-{index}"), any(&config))
}

/// An expression for `:path`, which has the query. None: every path.
fn path_with_query(of: &PathMatcher) -> Option<String> {
    match of {
        PathMatcher::Any => None,
        PathMatcher::Exact(path) => Some(format!(r"{}(?:\?.*)?", regex::escape(path))),
        PathMatcher::Prefix(path) => Some(format!("{}(?:[/?].*)?", regex::escape(path))),
        PathMatcher::Regex(text) => Some(format!(r"(?:{text})(?:\?.*)?")),
        PathMatcher::Grpc(method) => path_with_query(&method.path()),
    }
}

/// The filter knows headers only. `:path` has the query, which the path of a fault is without.
fn headers(of: &Fault) -> Vec<v3::HeaderMatcher> {
    let method = of.matcher.method.as_ref();
    let method = method.map(|of| header(":method", &ValueMatcher::Exact(Arc::clone(of))));
    let path = path_with_query(&of.matcher.path);
    let path = path.map(|text| header(":path", &ValueMatcher::Regex(text.into())));
    let headers = of.matcher.headers.iter();
    let headers = headers.map(|of| header(&of.name, &of.value));
    method.into_iter().chain(path).chain(headers).collect()
}

fn delay(of: Delay) -> FaultDelay {
    FaultDelay {
        percentage: percent(of.percent),
        fault_delay_secifier: duration(of.time).map(FaultDelaySecifier::FixedDelay),
    }
}

fn abort(of: Abort) -> FaultAbort {
    FaultAbort {
        percentage: percent(of.percent),
        error_type: Some(match of.answer {
            FaultAnswer::Status(status) => ErrorType::HttpStatus(status.into()),
            FaultAnswer::Grpc(code) => ErrorType::GrpcStatus(code.into()),
        }),
        ..Default::default()
    }
}

const fn percent(numerator: u32) -> Option<FractionalPercent> {
    // The denominator is 100 by default.
    Some(FractionalPercent {
        numerator,
        denominator: 0,
    })
}
