//! Reads the lines of Envoy, and gives labels to the golden metrics among them.

use heddle_xds_types::golden::{self, Edge, Pod, is_left_out};

use super::families::{Families, OfHistogram, Value, labels};
use super::istio;

/// The prefix that Envoy gives its metrics for Prometheus.
const PREFIX: &str = "envoy_";

/// The text with labels, as far as it has come.
pub(super) struct Labelled<'a> {
    pod: &'a Pod,
    /// The labels that the Mesh leaves out, as bits.
    left_out: u32,
    /// Whether the names of Istio are added.
    istio: bool,
    /// The lines about other metrics.
    text: String,
    /// Several series of Envoy's can have the same labels: they differ in a detail that has none, or that is left out.
    golden: Families,
}

impl<'a> Labelled<'a> {
    pub(super) fn new(pod: &'a Pod, left_out: u32, istio: bool) -> Self {
        Self {
            pod,
            left_out,
            istio,
            text: String::new(),
            golden: Families::default(),
        }
    }

    /// Takes one line of Envoy's.
    pub(super) fn take(&mut self, line: &str) {
        match golden(line) {
            Some(Line::Type) => {}
            Some(Line::Series { name, tag, value }) if let Some(edge) = Edge::parse(tag) => {
                let all = edge.labels(self.pod).into_iter();
                let kept = all.filter(|(label, _)| !is_left_out(self.left_out, label));
                let (full, labels) = (format!("{PREFIX}{name}"), labels(kept));
                match value {
                    Value::Count(count) => self.golden.count(&full, labels, count),
                    Value::Duration(line) => self.golden.add(&full, labels, line),
                }
                if self.istio {
                    istio::add(&mut self.golden, self.pod, &edge, name, value);
                }
            }
            Some(Line::Series { .. }) | None => {
                self.text.push_str(line);
                self.text.push('\n');
            }
        }
    }

    /// Ends a whole text.
    pub(super) fn end(mut self) -> String {
        self.golden.write(&mut self.text);
        self.text
    }
}

/// A line about a golden metric.
enum Line<'a> {
    /// The type of the metric.
    Type,
    /// A series with its tag.
    Series {
        name: &'static str,
        tag: &'a str,
        value: Value<'a>,
    },
}

/// The golden metric of this name, and the rest of the name.
fn metric(name: &str) -> Option<(&'static str, &str)> {
    let name = name.strip_prefix(PREFIX)?;
    let mut all = golden::NAMES.iter();
    all.find_map(|metric| Some((*metric, name.strip_prefix(metric)?)))
}

fn golden(line: &str) -> Option<Line<'_>> {
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (name, _) = rest.split_once(' ')?;
        let (_, rest) = metric(name)?;
        return rest.is_empty().then_some(Line::Type);
    }
    let (name, rest) = line.split_once('{')?;
    let (name, part) = metric(name)?;
    let rest = rest.strip_prefix(golden::TAG)?.strip_prefix("=\"")?;
    let mut escaped = false;
    let end = rest.find(|character| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    })?;
    let (tag, rest) = rest.split_at_checked(end)?;
    let (bound, value) = rest.strip_prefix('"')?.rsplit_once("} ")?;
    let value = match (name == golden::DURATIONS, part) {
        (false, "") => Value::Count(value.parse().ok()?),
        (true, "_bucket") => {
            let bound = bound.strip_prefix(",le=\"")?.strip_suffix('"')?;
            Value::Duration(OfHistogram::Bucket(bound, value.parse().ok()?))
        }
        (true, "_sum") => Value::Duration(OfHistogram::Sum(value.parse().ok()?)),
        (true, "_count") => Value::Duration(OfHistogram::Count(value.parse().ok()?)),
        _ => return None,
    };
    Some(Line::Series { name, tag, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(text: &str, left_out: &[&str], istio: bool) -> String {
        let pod = Pod {
            namespace: "shop".to_owned(),
            workload: "cart".to_owned(),
            principal: "spiffe://d/ns/shop/sa/cart".to_owned(),
        };
        let mut labelled = Labelled::new(&pod, golden::left_out(left_out), istio);
        text.lines().for_each(|line| labelled.take(line));
        labelled.end()
    }

    #[test]
    fn histograms_and_counters_get_labels_and_other_lines_stay() {
        let text = r#"# TYPE envoy_heddle_request_failures_total counter
envoy_heddle_request_failures_total{edge="destination;;cart;503;;x;UF;in;reset{a;b}"} 1
envoy_heddle_request_failures_total{edge="destination;;cart;503;;x;UF;in;reset{c \"d\"}"} 2
# TYPE envoy_server_live gauge
envoy_server_live{} 1
# TYPE envoy_heddle_request_duration_ms histogram
envoy_heddle_request_duration_ms_bucket{edge="source;db;api;200;14;out|db/api|80",le="0.5"} 7
envoy_heddle_request_duration_ms_sum{edge="source;db;api;200;14;out|db/api|80"} 3.5
envoy_heddle_request_duration_ms_count{edge="source;db;api;200;14;out|db/api|80"} 8
envoy_other{edge="mine"} 1
"#;
        let own = r#"source_namespace="shop",source_workload="cart",source_principal="spiffe://d/ns/shop/sa/cart""#;
        let to = r#"destination_namespace="db",destination_service="api",upstream_cluster="out|db/api|80",protocol="http",response_code="200",grpc_status="14""#;
        let expected = format!(
            r#"# TYPE envoy_server_live gauge
envoy_server_live{{}} 1
envoy_other{{edge="mine"}} 1
# TYPE envoy_heddle_request_duration_ms histogram
envoy_heddle_request_duration_ms_bucket{{reporter="source",{own},{to},le="0.5"}} 7
envoy_heddle_request_duration_ms_sum{{reporter="source",{own},{to}}} 3.5
envoy_heddle_request_duration_ms_count{{reporter="source",{own},{to}}} 8
# TYPE envoy_heddle_request_failures_total counter
envoy_heddle_request_failures_total{{reporter="destination",source_principal="x",destination_namespace="shop",destination_workload="cart",destination_service="cart",protocol="http",response_code="503",response_flags="UF",route="in"}} 3
"#
        );
        assert_eq!(labelled(text, &[], false), expected);
    }

    #[test]
    fn series_that_differ_in_labels_left_out_are_one() {
        let text = r#"envoy_heddle_request_duration_ms_bucket{edge="source;db;api;200;;out|db/v1|80",le="0.5"} 7
envoy_heddle_request_duration_ms_bucket{edge="source;db;api;200;;out|db/v1|80",le="+Inf"} 9
envoy_heddle_request_duration_ms_sum{edge="source;db;api;200;;out|db/v1|80"} 3.5
envoy_heddle_request_duration_ms_count{edge="source;db;api;200;;out|db/v1|80"} 9
envoy_heddle_request_duration_ms_bucket{edge="source;db;api;200;;out|db/v2|80",le="0.5"} 1
envoy_heddle_request_duration_ms_bucket{edge="source;db;api;200;;out|db/v2|80",le="+Inf"} 1
envoy_heddle_request_duration_ms_sum{edge="source;db;api;200;;out|db/v2|80"} 0.25
envoy_heddle_request_duration_ms_count{edge="source;db;api;200;;out|db/v2|80"} 1
"#;
        let labels = r#"reporter="source",source_namespace="shop",source_workload="cart",destination_namespace="db",destination_service="api",protocol="http",response_code="200""#;
        let name = "envoy_heddle_request_duration_ms";
        let expected = format!(
            "# TYPE {name} histogram
{name}_bucket{{{labels},le=\"0.5\"}} 8
{name}_bucket{{{labels},le=\"+Inf\"}} 10
{name}_sum{{{labels}}} 3.75
{name}_count{{{labels}}} 10
"
        );
        let left_out = ["upstream_cluster", "source_principal"];
        assert_eq!(labelled(text, &left_out, false), expected);
    }

    #[test]
    fn names_of_istio_count_each_request_once() {
        let text = r#"envoy_heddle_request_duration_ms_bucket{edge="destination;;cart;200;;spiffe://d/ns/web/sa/front",le="+Inf"} 9
envoy_heddle_request_duration_ms_sum{edge="destination;;cart;200;;spiffe://d/ns/web/sa/front"} 3
envoy_heddle_request_duration_ms_count{edge="destination;;cart;200;;spiffe://d/ns/web/sa/front"} 9
envoy_heddle_request_duration_ms_count{edge="destination;;cart;503;;-"} 2
envoy_heddle_request_duration_ms_count{edge="destination;;cart;200;;-;;probe;"} 50
envoy_heddle_request_failures_total{edge="destination;;cart;503;;-;UF;in;x"} 2
envoy_heddle_request_failures_total{edge="destination;;cart;503;;-;UF;probe;x"} 7
envoy_heddle_tcp_sent_bytes{edge="source;db;pg;;;out|db/pg|5432;-;;"} 4
"#;
        let all = labelled(text, &[], true);
        let lines: Vec<&str> = all.lines().filter(|l| l.contains("istio_")).collect();
        let to = r#"destination_workload="cart",destination_workload_namespace="shop",destination_canonical_service="cart",destination_canonical_revision="latest",destination_principal="spiffe://d/ns/shop/sa/cart",destination_service="cart.shop.svc.cluster.local",destination_service_name="cart",destination_service_namespace="shop",destination_cluster="Kubernetes""#;
        let from = |workload: &str, namespace: &str, principal: &str| {
            format!(
                r#"reporter="destination",source_workload="{workload}",source_workload_namespace="{namespace}",source_canonical_service="{workload}",source_canonical_revision="latest",source_principal="{principal}",source_cluster="Kubernetes""#
            )
        };
        let front = from("front", "web", "spiffe://d/ns/web/sa/front");
        let plain = from("unknown", "unknown", "unknown");
        let ok = format!(
            r#"{front},{to},request_protocol="http",response_code="200",connection_security_policy="mutual_tls""#
        );
        let failed = format!(
            r#"{plain},{to},request_protocol="http",response_code="503",response_flags="UF",connection_security_policy="none""#
        );
        for expected in [
            format!(r#"istio_request_duration_milliseconds_bucket{{{ok},le="+Inf"}} 9"#),
            format!("istio_request_duration_milliseconds_count{{{ok}}} 9"),
            format!(
                "istio_requests_total{{{}}} 9",
                ok.replace(",conn", r#",response_flags="-",conn"#)
            ),
            format!("istio_requests_total{{{failed}}} 2"),
        ] {
            assert!(lines.contains(&&*expected), "{expected}\n{lines:#?}");
        }
        let of_requests = lines
            .iter()
            .filter(|l| l.starts_with("istio_requests_total{"));
        assert_eq!(of_requests.count(), 2, "{lines:#?}");
        let sent = lines
            .iter()
            .find(|l| l.starts_with("istio_tcp_sent_bytes_total{"));
        let sent = sent.unwrap();
        assert!(
            sent.contains(r#"destination_service="pg.db.svc.cluster.local""#),
            "{sent}"
        );
        assert!(
            sent.contains(r#"request_protocol="tcp",response_flags="-""#),
            "{sent}"
        );
    }
}
