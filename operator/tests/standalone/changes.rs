//! A change is a trace at a collector: from the event to the acknowledgment of the sidecar and the status. Lines of the log are JSON.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;

use crate::collector::{Collector, Received};
use crate::harness::Fixture;
use crate::{programmed, split};

const OBJECT: &str = "TrafficSplit shop/reviews";

/// Whether a span is that of a whole change, which names the object.
fn is_whole(received: &Received) -> bool {
    let mut attributes = received.span.attributes.iter();
    let objects = attributes.find(|of| of.key == "heddle.objects");
    let value = objects.and_then(|of| of.value.clone()?.value);
    let Some(Any::ArrayValue(all)) = value else {
        return false;
    };
    let is_object = |value: &Option<Any>| *value == Some(Any::StringValue(OBJECT.to_owned()));
    all.values.iter().any(|of| is_object(&of.value))
}

pub fn are_traced_to_the_acknowledgment(mesh: &mut Fixture) {
    let at = mesh.address(200, 4317).to_string();
    let collector = Collector::start(&at).unwrap();
    mesh.restart_with(&[
        "--trace-endpoint",
        &format!("http://{at}"),
        "--log-format",
        "json",
    ]);
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    mesh.apply("split.yaml", &split(95, 5));
    mesh.status("TrafficSplit", "reviews", programmed(1));

    let spans = collector
        .take_once(|spans| spans.iter().any(is_whole))
        .unwrap();
    let whole = spans.iter().find(|of| is_whole(of)).unwrap();
    assert_eq!(
        (&*whole.service, &*whole.span.name),
        ("heddle-operator", "change")
    );
    let whole = &whole.span;
    assert!(whole.parent_span_id.is_empty());
    let steps = spans
        .iter()
        .filter(|of| of.span.parent_span_id == whole.span_id);
    let steps: BTreeMap<&str, &Received> = steps.map(|of| (&*of.span.name, of)).collect();
    let names: Vec<&str> = steps.keys().copied().collect();
    assert_eq!(
        names,
        [
            "compile",
            "publish",
            "push and acknowledgment",
            "read",
            "status"
        ]
    );
    let inside = |span: &Span| {
        let times = (span.start_time_unix_nano, span.end_time_unix_nano);
        whole.start_time_unix_nano <= times.0
            && times.0 <= times.1
            && times.1 <= whole.end_time_unix_nano
    };
    for step in steps.values() {
        assert_eq!(step.span.trace_id, whole.trace_id);
        assert!(inside(&step.span), "{step:?} {whole:?}");
    }
    let pushed = steps["push and acknowledgment"];
    assert_eq!(pushed.attribute("heddle.proxy"), Some("shop/frontend-1"));
    assert_eq!(steps["status"].attribute("heddle.object"), Some(OBJECT));

    let log = std::fs::read_to_string(mesh.path("operator.log")).unwrap();
    let lines = log.lines().skip_while(|line| !line.starts_with('{'));
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let is_change = |line: &Value| line["message"] == "object added" && line["object"] == OBJECT;
    assert!(lines.iter().any(is_change), "{lines:#?}");
}
