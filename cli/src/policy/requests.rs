//! Requests that `heddle tap` has printed, by caller and port: the evidence for methods and paths.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroU16;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use heddle_crds::Operation;
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::authz::is_ambiguous;
use heddle_policy_compiler::world::{Port, SpiffeId};
use heddle_xds_types::denial;
use heddle_xds_types::edges::Reporter;
use heddle_xds_types::tap::TapLine;

use super::paths::Paths;

/// The largest file, in bytes.
const MAX_FILE: u64 = 1 << 30;
/// The end of a path that the tap has cut.
const CUT: char = '…';
/// Envoy shows a byte that is not UTF-8 so.
const REPLACED: char = '!';

/// The requests of one caller to one port of a workload.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The requests.
    pub count: u64,
    /// Those of them with a path or a method that no Allow rule can name.
    pub unnamable: u64,
    /// The paths of the others.
    pub paths: Paths,
}

/// The requests that the sidecars of servers have reported.
#[derive(Debug, Default)]
pub struct Requests {
    sent: BTreeMap<(NamespacedName, SpiffeId, Port), Sent>,
    /// The requests in the file.
    pub count: u64,
    /// The time from the first to the last one, in seconds.
    pub seconds: u64,
}

impl Requests {
    /// Reads a file that `heddle tap -o json` wrote.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or has another line.
    pub fn read(path: &Path) -> Result<Self> {
        let about = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(about)?;
        let (mut requests, mut times, mut size) = (Self::default(), None, 0);
        for (at, line) in BufReader::new(file.take(MAX_FILE + 1)).lines().enumerate() {
            let line = line.with_context(about)?;
            size += line.len() as u64 + 1;
            ensure!(
                size <= MAX_FILE,
                "{} is too large: at most {MAX_FILE} bytes are read; tap for a shorter time",
                path.display()
            );
            if line.is_empty() {
                continue;
            }
            let line = request(&line).with_context(|| {
                format!(
                    "line {} of {} is not a request; write the file by `heddle tap NAMESPACE -o json`",
                    at + 1,
                    path.display()
                )
            })?;
            let time = line.request.time_ms;
            let (first, last) = times.unwrap_or((time, time));
            times = Some((time.min(first), time.max(last)));
            requests.count += 1;
            requests.add(&line);
        }
        let (first, last) = times.unwrap_or_default();
        requests.seconds = (last - first).div_ceil(1000);
        Ok(requests)
    }

    /// The requests of a caller to a port of a workload.
    pub fn of(&self, workload: &NamespacedName, caller: &SpiffeId, port: Port) -> Option<&Sent> {
        self.sent.get(&(workload.clone(), caller.clone(), port))
    }

    /// Takes a request that the server's sidecar has reported, with the certificate that its caller showed, and that was not denied.
    fn add(&mut self, line: &TapLine) {
        let request = &line.request;
        let server = request.reporter == Reporter::Destination as i32;
        let port = request.backend.strip_prefix("in|");
        let port = port.and_then(|port| port.parse::<NonZeroU16>().ok());
        let caller = SpiffeId::parse(&request.peer);
        let port = port.map(Port::from);
        let (true, Some(port), Some(caller)) = (server, port, caller) else {
            return;
        };
        let denied = denial::denies(&request.status.to_string(), &request.grpc_status);
        if denied || denial::is_by_authz(&request.details) {
            return;
        }
        let workload = NamespacedName::new(&line.namespace, &line.workload);
        let sent = self.sent.entry((workload, caller, port)).or_default();
        sent.count += 1;
        let path = request.path.split(['?', '#']).next().unwrap_or_default();
        let cut = path.strip_suffix(CUT);
        let named = cut.unwrap_or(path);
        let odd = !named.starts_with('/') || named.contains(REPLACED) || is_ambiguous(named);
        if odd || !is_namable(&request.method) {
            sent.unnamable += 1;
            return;
        }
        match cut.and_then(|cut| cut.rsplit_once('/')) {
            None => sent.paths.add(path, &request.method),
            // Its last segment is not whole.
            Some((whole, _)) => sent.paths.add(&format!("{whole}/{CUT}"), &request.method),
        }
    }
}

impl Sent {
    /// The patterns with the same methods together; `None` where no rule can name all that was sent.
    pub fn operations(&self) -> Option<Vec<(Vec<String>, Vec<String>)>> {
        if self.unnamable > 0 {
            return None;
        }
        let mut by_methods = BTreeMap::<Vec<String>, Vec<String>>::new();
        for (pattern, methods) in self.paths.clone().patterns() {
            let methods: Vec<String> = methods.into_iter().collect();
            if methods.len() > Operation::MAX_METHODS {
                return None;
            }
            by_methods.entry(methods).or_default().push(pattern);
        }
        Some(by_methods.into_iter().collect())
    }
}

/// Reads a line. Every field of a request may be missing in another version, so that a document of another kind could pass for one.
fn request(line: &str) -> Result<TapLine> {
    let line: TapLine = serde_json::from_str(line)?;
    let texts = [&line.namespace, &line.workload, &line.request.method];
    ensure!(
        texts.iter().all(|text| !text.is_empty()),
        "it lacks the namespace, the workload or the method"
    );
    Ok(line)
}

/// Whether the schema of `AuthPolicy` takes a method.
fn is_namable(method: &str) -> bool {
    let own = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_' || c == '-';
    method.len() <= Operation::MAX_METHOD_LENGTH
        && method.starts_with(|c: char| c.is_ascii_uppercase())
        && method.chars().all(own)
}
