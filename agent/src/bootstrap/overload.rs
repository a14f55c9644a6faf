//! Bounds for a sidecar that is flooded, by a port scan from its own pod say: it stops taking connections before the kernel ends it.

use serde_json::{Value, json};

/// Two file descriptors each, in and out, stay far below the limit of a container.
const MAX_DOWNSTREAM_CONNECTIONS: u32 = 32_768;
/// The part of the container's memory beside Envoy's heap: the agent, stacks, and the pages of code that must stay.
const BESIDE_THE_HEAP: u64 = 32 << 20;
/// With less than this Envoy cannot run; the kernel decides then.
const LEAST_HEAP: u64 = 32 << 20;
const HEAP: &str = "envoy.resource_monitors.fixed_heap";

/// The bounds of a container with so many bytes of memory, or without a limit.
pub(super) fn manager(memory: Option<u64>) -> Value {
    let connections = json!({
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
        },
    });
    let heap = memory
        .map(|memory| memory.saturating_sub(BESIDE_THE_HEAP))
        .filter(|heap| *heap >= LEAST_HEAP);
    let Some(heap) = heap else {
        return json!({ "resource_monitors": [connections] });
    };
    let at = |action: &str, threshold: f64| {
        json!({
            "name": format!("envoy.overload_actions.{action}"),
            "triggers": [{ "name": HEAP, "threshold": { "value": threshold } }],
        })
    };
    json!({
        // A connection that waits for its destination holds 12 kB: in this time a scan opens some thousands.
        "refresh_interval": "0.25s",
        "resource_monitors": [connections, {
            "name": HEAP,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                "max_heap_size_bytes": heap,
            },
        }],
        "actions": [at("shrink_heap", 0.8), at("stop_accepting_connections", 0.9)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_is_bounded_where_the_container_is() {
        let heap = |memory| {
            manager(memory)["resource_monitors"][1]["typed_config"]["max_heap_size_bytes"].as_u64()
        };
        assert_eq!(heap(Some(256 << 20)), Some(224 << 20));
        assert_eq!(heap(Some(40 << 20)), None, "too little to say");
        assert_eq!(heap(None), None);
    }
}
