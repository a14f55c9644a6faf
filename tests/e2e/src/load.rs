//! Steady load from a pod, counted by version, status and error.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{Kubectl, Namespace};

/// The counts of a load run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Requests sent.
    pub count: u64,
    /// Answers by the `VERSION` of the server.
    pub versions: BTreeMap<String, u64>,
    /// Answers by status code (HTTP or gRPC).
    pub statuses: BTreeMap<String, u64>,
    /// Requests without an answer.
    pub errors: u64,
    /// Some of their error texts.
    pub error_samples: Vec<String>,
    /// Answers by the pod of the server.
    pub pods: BTreeMap<String, u64>,
    /// The last answer of HTTP, if the flag `-last` asks for it.
    pub last: Option<Answer>,
}

/// An answer of HTTP.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// The headers, as `Content-Type`.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body, 64 kB at most. The echo server writes the request that it had into it.
    pub body: String,
}

impl Answer {
    /// The first line of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.first().map(String::as_str)
    }

    /// The request that the echo server had.
    ///
    /// # Errors
    /// The answer is not of the echo server.
    pub fn request(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("an answer: {}", self.body))
    }
}

impl Report {
    /// Answers with this status.
    pub fn status(&self, code: &str) -> u64 {
        self.statuses.get(code).copied().unwrap_or_default()
    }

    /// Answers of this version.
    pub fn version(&self, version: &str) -> u64 {
        self.versions.get(version).copied().unwrap_or_default()
    }
}

/// The echo image's client, run in a pod of a Deployment.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    kubectl: &'a Kubectl,
    from: &'a str,
    args: Vec<String>,
}

impl<'a> Load<'a> {
    /// Requests sent from a pod of the Deployment `from`.
    pub fn from(kubectl: &'a Kubectl, from: &'a str) -> Self {
        Self {
            kubectl,
            from,
            args: Vec::new(),
        }
    }

    /// A flag of the client, for example `-n=1000`.
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Further flags of the client.
    pub fn flags(self, flags: &[&str]) -> Self {
        flags.iter().fold(self, |load, flag| load.flag(flag))
    }

    /// Sends and counts.
    pub fn run(&self, url: &str) -> Result<Report> {
        parse(&self.spawn(url)?.wait_with_output()?)
    }

    /// Sends while the test goes on; [`Running::report`] waits for the end.
    pub fn start(&self, url: &str) -> Result<Running> {
        Ok(Running(self.spawn(url)?))
    }

    fn spawn(&self, url: &str) -> Result<Child> {
        let target = format!("deployment/{}", self.from);
        let mut args = vec!["exec", &target, "-c", "app", "--", "/echo", "client"];
        args.extend(self.args.iter().map(String::as_str));
        args.push(url);
        let mut command = self.kubectl.command(&args);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl exec")
    }
}

/// Requests of HTTP from the Deployment `client` of a namespace, each of which must have an answer.
///
/// # Errors
/// A request has no answer.
pub fn calls(ns: &Namespace, count: u64, flags: &[&str], url: &str) -> Result<Report> {
    let load = Load::from(&ns.kubectl, "client").flag(&format!("-n={count}"));
    let report = load.flags(flags).run(url)?;
    ensure!(report.errors == 0, "{url}: {report:?}");
    Ok(report)
}

/// A load run under way.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Waits for the run's end.
    pub fn report(self) -> Result<Report> {
        parse(&self.0.wait_with_output()?)
    }
}

fn parse(output: &std::process::Output) -> Result<Report> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let Some(json) = stdout.lines().rev().find(|line| line.starts_with('{')) else {
        bail!(
            "the client printed no report: {stdout} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    serde_json::from_str(json).with_context(|| format!("the client's report: {json}"))
}

/// Holds a count against a share of all, within five standard deviations: wrong once in a million runs.
///
/// # Panics
/// When the count is farther off.
pub fn assert_share(got: u64, of: u64, share: f64) {
    let expected = of as f64 * share;
    let allowed = 5.0 * (of as f64 * share * (1.0 - share)).sqrt();
    assert!(
        (got as f64 - expected).abs() <= allowed,
        "{got} of {of}, expected {expected} ± {allowed}"
    );
}
