//! `heddle policy test`: assertions about calls, held against the policies.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use heddle_acceptor::clean;
use heddle_policy_compiler::{Call, Explanation, Outcome, Servers, Stopped, World};
use serde::Serialize;

use super::assertions::{self, Placed};
use super::mesh::Mesh;
use super::never::{self, Found};
use crate::cluster::ClusterArgs;
use crate::findings;
use crate::out::{self, say};
use crate::sources::Objects;
use crate::why;

/// The longest line, in characters.
const MAX_LINE: usize = 2000;

/// Options of `heddle policy test`.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// Files or folders of assertions, with all folders below; `-` is standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Files or folders with the objects, in place of the cluster.
    #[arg(short = 'd', long = "dir", value_name = "PATH")]
    objects: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people: a line for each assertion.
    Text,
    /// For programs: one JSON document.
    Json,
    /// For programs: one YAML document.
    Yaml,
    /// For CI: the XML of JUnit.
    Junit,
}

/// The result of an assertion.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TestResult {
    file: String,
    number: usize,
    name: String,
    /// `passed`, `failed` or `undecided`.
    result: &'static str,
    /// The reasons: requests that pass or are denied, with the policy and rule.
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    passed: usize,
    failed: usize,
    undecided: usize,
    tests: &'a [TestResult],
}

/// Runs the command; returns whether an assertion does not hold.
///
/// # Errors
/// Assertions or objects cannot be read, or an assertion names a caller, port or destination that does not exist.
pub async fn run(args: &TestArgs) -> Result<bool> {
    let tests = assertions::read(&args.paths)?;
    let outcome = Objects::from(&args.objects, &args.cluster).await?.compile();
    let errors = findings::errors(&outcome.findings);
    if errors > 0 {
        let errors = findings::plural(errors, "error");
        crate::out::note!("{errors} in the objects; run `heddle analyze`, which names them");
    }
    let mesh = Mesh::of(&outcome.compiled, &outcome.world);
    let mut results = Vec::new();
    for test in &tests {
        let about = || format!("{}: test {} ({})", test.file, test.number, test.name());
        results.push(held(&mesh, test).with_context(about)?);
    }
    let count = |of: &str| results.iter().filter(|one| one.result == of).count();
    let document = Document {
        passed: count("passed"),
        failed: count("failed"),
        undecided: count("undecided"),
        tests: &results,
    };
    match args.output {
        Output::Text => say!("{}", text(&document)),
        Output::Json => out::json(&document)?,
        Output::Yaml => out::yaml(&document)?,
        Output::Junit => out::text(format_args!("{}", junit(&document))),
    }
    Ok(document.failed + document.undecided > 0)
}

/// Holds one assertion against the mesh.
fn held(mesh: &Mesh<'_>, placed: &Placed) -> Result<TestResult> {
    let test = &placed.test;
    let (result, reasons) = match (&test.allow, &test.deny, &test.never) {
        (Some(of), ..) => of_call(mesh, of, true)?,
        (_, Some(of), _) => of_call(mesh, of, false)?,
        (_, _, Some(of)) => of_never(never::check(mesh, of)?),
        (None, None, None) => ("failed", Vec::new()),
    };
    let reasons = reasons.iter().map(|reason| clean(reason, MAX_LINE));
    Ok(TestResult {
        file: placed.file.clone(),
        number: placed.number,
        name: clean(&placed.name(), MAX_LINE),
        result,
        reasons: reasons.collect(),
    })
}

fn of_never(found: Found) -> (&'static str, Vec<String>) {
    let Found {
        mut passing,
        more,
        undecided,
        looked_at,
    } = found;
    if more > 0 {
        passing.push(format!("and {more} more"));
    }
    match (passing.is_empty(), undecided.len()) {
        (false, _) => ("failed", passing),
        (true, 0) => {
            let pairs = findings::plural(looked_at, "pair");
            (
                "passed",
                vec![format!(
                    "for every request of {pairs} of a caller and a port"
                )],
            )
        }
        (true, many) => {
            let first = undecided.into_iter().next().unwrap_or_default();
            let more = many - 1;
            let reason = format!(
                "not decided, for rules have regular expressions or mixed patterns that cannot be told apart: {first}"
            );
            let more = (more > 0).then(|| format!("and {more} more"));
            ("undecided", [reason].into_iter().chain(more).collect())
        }
    }
}

fn of_call(
    mesh: &Mesh<'_>,
    of: &assertions::Call,
    allowed: bool,
) -> Result<(&'static str, Vec<String>)> {
    let call = call(mesh.world, of)?;
    let explanation = mesh.compiled.explain(&call)?;
    let outcome = explanation.outcome();
    let holds = match outcome {
        Outcome::Passes => allowed,
        Outcome::Denied => !allowed,
        // Its own sidecar closes the connection.
        Outcome::Stopped => !allowed && explanation.stopped == Some(Stopped::NotDeclared),
        Outcome::Depends | Outcome::NoEndpoint | Outcome::Outside => false,
    };
    let result = if holds { "passed" } else { "failed" };
    Ok((result, reasons(&explanation, holds == allowed)))
}

/// The decisions that let the call pass, or that do not. Without any, the reason why no server decides.
fn reasons(explanation: &Explanation, passing: bool) -> Vec<String> {
    if let Some(stopped) = &explanation.stopped {
        return vec![why::stop(stopped)];
    }
    let servers = explanation.backends.iter().flat_map(|of| &of.servers);
    let wanted = servers.filter(|of: &&Servers| of.decision.passes() == passing);
    let lines: Vec<String> = wanted.map(|of| why::servers(explanation, of)).collect();
    let empty = explanation.backends.iter().find(|of| of.servers.is_empty());
    match (lines.is_empty(), empty) {
        (true, Some(backend)) => vec![format!("{} has no endpoint", backend.backend)],
        _ => lines,
    }
}

/// The call as an application makes it.
fn call(world: &World, of: &assertions::Call) -> Result<Call> {
    let service = assertions::name("to", &of.to)?;
    let known = world.services().get(&service);
    let known =
        known.with_context(|| format!("to: {service} is not a known service; correct it"))?;
    let ports: Vec<u16> = known.ports.keys().map(|port| port.get()).collect();
    let port = match (of.port, &*ports) {
        (Some(port), _) => port,
        (None, [only]) => *only,
        (None, _) => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            anyhow::bail!(
                "{service} has ports {}; choose one by `port`",
                ports.join(", ")
            )
        }
    };
    let headers = of.headers.iter();
    Ok(Call {
        from: assertions::name("from", &of.from)?,
        host: format!("{}.{}", service.name, service.namespace),
        port,
        tls: false,
        method: of.method.clone(),
        path: of.path.clone(),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
    })
}

fn text(document: &Document<'_>) -> String {
    let colors = out::has_colors();
    let mut lines = Vec::new();
    for test in document.tests {
        let (word, color) = match test.result {
            "passed" => ("ok", "32"),
            "failed" => ("FAILED", "31"),
            _ => ("UNDECIDED", "33"),
        };
        let word = format!("{word:9}");
        let word = match colors {
            true => format!("\u{1b}[{color}m{word}\u{1b}[0m"),
            false => word,
        };
        lines.push(format!("{word}  {}", clean(&test.name, MAX_LINE)));
        if test.result != "passed" {
            lines.extend(
                test.reasons
                    .iter()
                    .map(|reason| format!("           {}", clean(reason, MAX_LINE))),
            );
        }
    }
    let Document {
        passed,
        failed,
        undecided,
        ..
    } = document;
    let undecided = match undecided {
        0 => String::new(),
        many => format!(", {many} undecided"),
    };
    lines.push(format!("{passed} passed, {failed} failed{undecided}"));
    lines.join("\n")
}

/// The document as CI systems read it.
fn junit(document: &Document<'_>) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let (all, failures) = (document.tests.len(), document.failed + document.undecided);
    // Writing to a String cannot fail.
    let _ = writeln!(
        xml,
        "<testsuite name=\"heddle policy test\" tests=\"{all}\" failures=\"{failures}\">"
    );
    for test in document.tests {
        let (name, file) = (escaped(&test.name), escaped(&test.file));
        let _ = write!(xml, "  <testcase name=\"{name}\" classname=\"{file}\"");
        if test.result == "passed" {
            xml.push_str("/>\n");
            continue;
        }
        let reasons = escaped(&test.reasons.join("; "));
        let _ = writeln!(
            xml,
            "><failure message=\"{}\">{reasons}</failure></testcase>",
            test.result
        );
    }
    xml.push_str("</testsuite>\n");
    xml
}

fn escaped(text: &str) -> String {
    let text = clean(text, MAX_LINE);
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let results = ["passed", "failed", "undecided"].map(|result| TestResult {
        file: of.text.clone(),
        number: 1,
        name: of.text.clone(),
        result,
        reasons: of.texts(),
    });
    let document = Document {
        passed: 1,
        failed: 1,
        undecided: 1,
        tests: &results,
    };
    format!("{}\n{}", text(&document), junit(&document))
}
