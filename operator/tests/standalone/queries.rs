//! The queries of `config/monitoring`, as texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use promql_parser::parser::{Expr, token};
use serde_json::Value;

/// A query, with the place where it stands.
pub type Query = (String, String);

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/monitoring")
}

/// Reads a file of YAML, by its path from the folder.
pub fn yaml(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

pub fn rules() -> Vec<Value> {
    let rules = yaml("rules.yaml");
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// Recording rules and alerts, in the order of the file.
pub fn of_rules() -> Vec<Query> {
    let rules = rules().into_iter();
    rules
        .map(|rule| {
            let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
            (name.to_owned(), rule["expr"].as_str().unwrap().to_owned())
        })
        .collect()
}

pub fn dashboards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|of| of == "json"));
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_str(&text).unwrap())
    };
    files.map(read).collect()
}

/// The queries of panels and variables, as Grafana sends them where each variable is at *All*.
pub fn of_dashboards(rate_interval: &str) -> Vec<Query> {
    let mut queries = Vec::new();
    for (file, dashboard) in dashboards() {
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let filled = |query: &str| {
            let mut query = query.replace("$__rate_interval", rate_interval);
            for variable in variables {
                let name = format!("${}", variable["name"].as_str().unwrap());
                if let Some(all) = variable["allValue"].as_str() {
                    query = query.replace(&name, all);
                }
            }
            assert!(
                !query.contains('$'),
                "{file}: a variable is left in {query}"
            );
            query
        };
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let place = format!("{file}: {}", panel["title"]);
                queries.push((place, filled(target["expr"].as_str().unwrap())));
            }
        }
        for variable in variables {
            let query = variable["query"]["query"].as_str();
            let inner =
                query.and_then(|query| query.strip_prefix("label_values(")?.strip_suffix(')'));
            if let Some((selector, label)) = inner.and_then(|inner| inner.rsplit_once(", ")) {
                let place = format!("{file}: variable {}", variable["name"]);
                queries.push((place, filled(&format!("sum by ({label}) ({selector})"))));
            }
        }
    }
    queries
}

/// The scrape jobs of docs/monitoring.md, by name.
pub fn documented_jobs() -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(folder().join("../../docs/monitoring.md")).unwrap();
    let blocks = text.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    let jobs = blocks.filter(|block| block.contains("- job_name:"));
    let jobs = jobs.flat_map(|block| {
        let list = block.replace("scrape_configs:\n", "");
        serde_saphyr::from_str::<Vec<Value>>(&list).unwrap()
    });
    jobs.map(|job| (job["job_name"].as_str().unwrap().to_owned(), job))
        .collect()
}

/// Returns the values that an alert compares, as queries: they have data, whether the alert fires or not.
pub fn observed(expr: &Expr) -> Vec<String> {
    match expr {
        Expr::Paren(of) => observed(&of.expr),
        Expr::Call(of) if of.func.name == "absent" => {
            of.args.args.iter().flat_map(|of| observed(of)).collect()
        }
        Expr::Binary(of) if of.op.id() == token::T_LAND => {
            let mut sides = observed(&of.lhs);
            sides.extend(observed(&of.rhs));
            sides
        }
        Expr::Binary(of) if of.op.is_comparison_operator() => {
            assert!(
                threshold(&of.rhs),
                "write the threshold on the right: {expr}"
            );
            observed(&of.lhs)
        }
        other => vec![other.to_string()],
    }
}

/// Whether an expression is a number.
fn threshold(expr: &Expr) -> bool {
    match expr {
        Expr::NumberLiteral(_) => true,
        Expr::Paren(of) => threshold(&of.expr),
        Expr::Binary(of) => threshold(&of.lhs) && threshold(&of.rhs),
        _ => false,
    }
}
