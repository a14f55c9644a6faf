//! The rules and dashboards of `config/monitoring` ask for metrics and labels that exist.
#![allow(
    missing_docs,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use promql_parser::label::Matchers;
use promql_parser::parser::{self, Expr, LabelModifier};
use serde_json::Value;

/// Labels that Prometheus adds to every series by its scrape configuration.
const OF_TARGETS: [&str; 3] = ["instance", "job", "pod"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/monitoring")
}

fn yaml(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

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

/// Queries with the variables of Grafana replaced.
fn parsed(query: &str) -> Expr {
    let query = query
        .replace("$__rate_interval", "5m")
        .replace("$namespace", "shop")
        .replace("$service", "reviews");
    parser::parse(&query).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Every query with the place where it stands, recording rules first, and the labels of recorded series.
type Queries = Vec<(String, Expr)>;

fn rules() -> Vec<Value> {
    let rules = yaml("rules.yaml");
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

fn dashboards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|of| of == "json"));
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        (
            file.display().to_string(),
            serde_json::from_str(&text).unwrap(),
        )
    };
    files.map(read).collect()
}

fn queries() -> Queries {
    let mut queries = Queries::new();
    for rule in rules() {
        let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
        queries.push((name.to_owned(), parsed(rule["expr"].as_str().unwrap())));
    }
    for (file, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let place = format!("{file}: {}", panel["title"]);
                queries.push((place, parsed(target["expr"].as_str().unwrap())));
            }
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let query = variable["query"]["query"].as_str();
            let inner =
                query.and_then(|query| query.strip_prefix("label_values(")?.strip_suffix(')'));
            if let Some((selector, label)) = inner.and_then(|inner| inner.rsplit_once(", ")) {
                queries.push((
                    file.clone(),
                    parsed(&format!("sum by ({label}) ({selector})")),
                ));
            }
        }
    }
    queries
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
