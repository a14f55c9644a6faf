//! The rules and dashboards of `config/monitoring` ask for metrics and labels that exist.
#![allow(
    missing_docs,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

#[path = "standalone/queries.rs"]
mod queries;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use promql_parser::label::Matchers;
use promql_parser::parser::{self, Expr, LabelModifier};
use queries::{
    dashboards, documented_jobs, folder, observed, of_dashboards, of_rules, rules, yaml,
};
use serde_json::Value;

/// Labels that Prometheus adds to every series by its scrape configuration.
const OF_TARGETS: [&str; 3] = ["instance", "job", "pod"];

/// The labels of each metric, by its name in queries.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let list = yaml("metrics.yaml");
    let groups = list.as_object().unwrap().values();
    let mut metrics = BTreeMap::new();
    for (name, labels) in groups.flat_map(|group| group.as_object().unwrap()) {
        let labels = labels.as_array().unwrap().iter();
        let labels: BTreeSet<String> = labels
            .map(|label| label.as_str().unwrap().to_owned())
            .collect();
        let is_histogram = labels.contains("le");
        for suffix in if is_histogram {
            &["_bucket", "_sum", "_count"][..]
        } else {
            &[""]
        } {
            metrics.insert(format!("{name}{suffix}"), labels.clone());
        }
    }
    metrics.insert("up".to_owned(), BTreeSet::new());
    metrics
}

/// The labels of an expression, given those of metrics and of recorded series. Notes everything that does not exist.
struct Check<'a> {
    metrics: &'a BTreeMap<String, BTreeSet<String>>,
    recorded: &'a BTreeMap<String, BTreeSet<String>>,
    wrong: Vec<String>,
    selectors: usize,
}

impl Check<'_> {
    fn labels(&mut self, expr: &Expr) -> BTreeSet<String> {
        match expr {
            Expr::Aggregate(of) => {
                let inner = self.labels(&of.expr);
                match &of.modifier {
                    Some(LabelModifier::Include(by)) => {
                        self.known(&by.labels, &inner, expr);
                        by.labels.iter().cloned().collect()
                    }
                    Some(LabelModifier::Exclude(_)) => panic!("write by, not without: {expr}"),
                    None => BTreeSet::new(),
                }
            }
            Expr::Unary(of) => self.labels(&of.expr),
            Expr::Paren(of) => self.labels(&of.expr),
            Expr::Subquery(of) => self.labels(&of.expr),
            Expr::Binary(of) => {
                let (left, right) = (self.labels(&of.lhs), self.labels(&of.rhs));
                if let Some(LabelModifier::Include(on)) =
                    of.modifier.as_ref().and_then(|of| of.matching.as_ref())
                {
                    self.known(&on.labels, &left, expr);
                    self.known(&on.labels, &right, expr);
                }
                left
            }
            Expr::Call(of) => {
                let all = of.args.args.iter().map(|argument| self.labels(argument));
                let mut labels: BTreeSet<String> =
                    all.collect::<Vec<_>>().into_iter().flatten().collect();
                if of.func.name == "histogram_quantile" {
                    assert!(labels.remove("le"), "no le in {expr}");
                }
                labels
            }
            Expr::VectorSelector(of) => self.selector(of.name.as_deref(), &of.matchers),
            Expr::MatrixSelector(of) => self.selector(of.vs.name.as_deref(), &of.vs.matchers),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => BTreeSet::new(),
            Expr::Extension(_) => panic!("{expr} is an extension"),
        }
    }

    fn selector(&mut self, name: Option<&str>, matchers: &Matchers) -> BTreeSet<String> {
        self.selectors += 1;
        let name = name.unwrap();
        let known = self
            .metrics
            .get(name)
            .or_else(|| self.recorded.get(name))
            .cloned();
        let Some(mut labels) = known else {
            self.wrong.push(format!("{name} is not a metric"));
            return BTreeSet::new();
        };
        labels.extend(OF_TARGETS.map(str::to_owned));
        for matcher in &matchers.matchers {
            if !labels.contains(&matcher.name) {
                self.wrong
                    .push(format!("{} is not a label of {name}", matcher.name));
            }
        }
        labels
    }

    fn known(&mut self, named: &[String], labels: &BTreeSet<String>, expr: &Expr) {
        let unknown = named.iter().filter(|label| !labels.contains(*label));
        self.wrong
            .extend(unknown.map(|label| format!("{label} is not a label in {expr}")));
    }
}

fn parsed(query: &str) -> Expr {
    parser::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Every query with the place where it stands, recording rules first.
fn queries() -> Vec<(String, Expr)> {
    let texts = of_rules().into_iter().chain(of_dashboards("5m"));
    texts
        .map(|(place, query)| (place, parsed(&query)))
        .collect()
}

#[test]
fn queries_use_metrics_and_labels_that_exist() {
    let (metrics, queries) = (metrics(), queries());
    let recording: BTreeSet<String> = rules()
        .iter()
        .filter_map(|rule| Some(rule["record"].as_str()?.to_owned()))
        .collect();
    let (mut recorded, mut wrong, mut selectors) = (BTreeMap::new(), Vec::new(), 0);
    for (place, query) in &queries {
        let mut check = Check {
            metrics: &metrics,
            recorded: &recorded,
            wrong: Vec::new(),
            selectors: 0,
        };
        let labels = check.labels(query);
        assert!(check.selectors > 0, "{place} asks for nothing");
        wrong.extend(check.wrong.iter().map(|wrong| format!("{place}: {wrong}")));
        selectors += check.selectors;
        if recording.contains(place) {
            recorded.insert(place.clone(), labels);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        selectors > 40 && recorded.len() == 3,
        "{selectors} {recorded:?}"
    );
}

#[test]
fn a_query_for_something_else_is_found() {
    let metrics = metrics();
    for (query, wrong) in [
        (
            "sum(heddle_no_such_metric)",
            "heddle_no_such_metric is not a metric",
        ),
        (
            "rate(heddle_nacks_total{kind=\"lds\"}[5m])",
            "kind is not a label of heddle_nacks_total",
        ),
        ("sum by (kind) (heddle_sidecars)", "kind is not a label in"),
        (
            "sum by (state) (sum(heddle_sidecars))",
            "state is not a label in",
        ),
        (
            "heddle_compile_seconds",
            "heddle_compile_seconds is not a metric",
        ),
    ] {
        let mut check = Check {
            metrics: &metrics,
            recorded: &BTreeMap::new(),
            wrong: Vec::new(),
            selectors: 0,
        };
        check.labels(&parsed(query));
        assert!(
            check.wrong.iter().any(|found| found.starts_with(wrong)),
            "{query}: {:?}",
            check.wrong
        );
    }
}

#[test]
fn alerts_say_what_to_do() {
    let rules = rules();
    let alerts: Vec<&Value> = rules
        .iter()
        .filter(|rule| rule.get("alert").is_some())
        .collect();
    let text = std::fs::read_to_string(folder().join("../../docs/monitoring.md")).unwrap();
    assert!(alerts.len() >= 12);
    for alert in alerts {
        let name = alert["alert"].as_str().unwrap();
        assert!(
            matches!(
                alert["labels"]["severity"].as_str(),
                Some("critical" | "warning")
            ),
            "{name}"
        );
        for part in ["summary", "description"] {
            assert!(
                alert["annotations"][part]
                    .as_str()
                    .is_some_and(|text| text.len() > 20),
                "{name}: {part}"
            );
        }
        assert!(
            text.contains(&format!("`{name}`")),
            "docs/monitoring.md lacks {name}"
        );
    }
}

#[test]
fn dashboards_ask_the_chosen_data_source_only() {
    for (file, dashboard) in dashboards() {
        assert!(
            dashboard["uid"].as_str().unwrap().starts_with("heddle-"),
            "{file}"
        );
        let ids: BTreeSet<u64> = dashboard["panels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|panel| panel["id"].as_u64().unwrap())
            .collect();
        assert_eq!(
            ids.len(),
            dashboard["panels"].as_array().unwrap().len(),
            "{file}"
        );
        let text = dashboard.to_string();
        let (all, chosen) = (
            text.matches("\"uid\":").count(),
            text.matches("\"uid\":\"${datasource}\"").count(),
        );
        assert_eq!(all, chosen + 1, "{file}");
    }
}

#[test]
fn alerts_watch_values_that_are_there_while_they_do_not_fire() {
    for (alert, values) in [
        ("absent(up{job=\"x\"} == 1)", vec!["up{job=\"x\"}"]),
        (
            "min(a > 0) - time() < 90 * 86400",
            vec!["min(a > 0) - time()"],
        ),
        (
            "a > 0.05 and on (b) sum by (b) (c) > 1",
            vec!["a", "sum by (b) (c)"],
        ),
    ] {
        assert_eq!(observed(&parsed(alert)), values, "{alert}");
    }
}

/// Runs promtool, and returns its output.
fn promtool(arguments: &[&str]) -> String {
    let cached = || folder().join("../../.cache/prometheus");
    let folder_of = std::env::var_os("HEDDLE_PROMETHEUS").map_or_else(cached, PathBuf::from);
    let program = folder_of.join("promtool");
    assert!(
        program.is_file(),
        "{} is not there: make prometheus, or HEDDLE_PROMETHEUS",
        program.display()
    );
    let ran = Command::new(program)
        .current_dir(folder())
        .args(arguments)
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(ran.status.success(), "promtool {arguments:?}: {text}");
    text
}

/// The tests of the alerts, in promtool's own format.
const TESTS: &str = "../../tests/monitoring/alerts.yaml";

#[test]
fn every_alert_fires_and_is_silent_in_promtool() {
    let text = promtool(&["check", "rules", "rules.yaml"]);
    assert!(
        text.contains(&format!("SUCCESS: {} rules found", rules().len())),
        "{text}"
    );
    promtool(&["test", "rules", TESTS]);
    let mut tested: BTreeMap<(String, bool), usize> = BTreeMap::new();
    let tests = yaml(TESTS);
    for test in tests["tests"].as_array().unwrap() {
        for case in test["alert_rule_test"].as_array().unwrap() {
            let name = case["alertname"].as_str().unwrap().to_owned();
            let fires = case["exp_alerts"]
                .as_array()
                .is_some_and(|of| !of.is_empty());
            *tested.entry((name, fires)).or_default() += 1;
        }
    }
    for rule in rules() {
        let Some(alert) = rule["alert"].as_str() else {
            continue;
        };
        for fires in [true, false] {
            assert!(
                tested.contains_key(&(alert.to_owned(), fires)),
                "{TESTS} has no case of {alert} that fires: {fires}"
            );
        }
    }
}

#[test]
fn documented_scrape_jobs_are_valid_and_pod_monitors_do_the_same() {
    let jobs = documented_jobs();
    let names = ["heddle-control-plane", "heddle-sidecars"];
    assert_eq!(jobs.keys().collect::<Vec<_>>(), names);
    let directory = tempfile::tempdir().unwrap();
    let configured = directory.path().join("prometheus.yml");
    let mut all: Vec<Value> = jobs.values().cloned().collect();
    for job in &mut all {
        // Debian builds Prometheus without this discovery.
        job.as_object_mut()
            .unwrap()
            .remove("kubernetes_sd_configs")
            .unwrap();
    }
    let text = serde_json::json!({ "scrape_configs": all }).to_string();
    std::fs::write(&configured, text).unwrap();
    let configured = configured.to_str().unwrap();
    promtool(&["check", "config", "--syntax-only", configured]);

    let text = std::fs::read_to_string(folder().join("pod_monitor.yaml")).unwrap();
    for (document, name) in text
        .split("\n---\n")
        .zip(["heddle-sidecars", "heddle-control-plane"])
    {
        let monitor: Value = serde_saphyr::from_str(document).unwrap();
        assert_eq!(monitor["metadata"]["name"], name);
        let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
        let job = &jobs[name];
        // The operator writes these fields in another case, and takes no name of a job.
        let rules = endpoint["relabelings"].to_string();
        let rules = rules
            .replace("sourceLabels", "source_labels")
            .replace("targetLabel", "target_label");
        let mut rules: Vec<Value> = serde_json::from_str(&rules).unwrap();
        rules.retain(|rule| rule["target_label"] != "job");
        assert_eq!(Some(&rules), job["relabel_configs"].as_array(), "{name}");
        assert_eq!(endpoint.get("metrics_path"), None);
        assert_eq!(endpoint.get("path"), job.get("metrics_path"), "{name}");
        assert_eq!(endpoint.get("scheme"), job.get("scheme"), "{name}");
        assert_eq!(
            endpoint["tlsConfig"]["serverName"], job["tls_config"]["server_name"],
            "{name}"
        );
    }
}
