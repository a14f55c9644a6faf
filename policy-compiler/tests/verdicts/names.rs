//! Envoy's report of its decisions: the rule that decided, and the verdict of audit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use heddle_policy_compiler::authz::{self, PortAuthz, Request, Verdict, decide};
use serde_json::{Value, json};

use super::wire::Answer;

const LOG: &str = "decisions.log";

/// Makes a server's sidecar log its decisions.
pub fn log(value: &mut Value, folder: &Path) {
    match value {
        Value::Object(map) => {
            let kind = map.get("@type").and_then(Value::as_str).unwrap_or_default();
            let http = kind.ends_with(".HttpConnectionManager");
            if http || kind.ends_with(".TcpProxy") {
                let decision = if http {
                    "%RESPONSE_CODE%|%RESPONSE_CODE_DETAILS%"
                } else {
                    // Of a connection that the gate refuses, the cluster has the name of the verdict.
                    "0|%CONNECTION_TERMINATION_DETAILS% %FILTER_STATE(envoy.tcp_proxy.cluster:PLAIN)%"
                };
                let filter = if http { "http" } else { "network" };
                let audit = |key: &str| {
                    format!("%DYNAMIC_METADATA(envoy.filters.{filter}.rbac:audit_shadow_{key})%")
                };
                let (rule, result) = (audit("effective_policy_id"), audit("engine_result"));
                let format = format!("%DOWNSTREAM_LOCAL_PORT%|{decision}|{rule}|{result}\n");
                let log = json!({"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": folder.join(LOG), "log_format": {"text_format_source": {"inline_string": format}}});
                map.insert(
                    "access_log".to_owned(),
                    json!([{"name": "file", "typed_config": log}]),
                );
            }
            map.values_mut().for_each(|value| self::log(value, folder));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| self::log(value, folder)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns the sidecar's report of a request or connection.
pub fn expected(authz: &PortAuthz, request: &Request, answer: Answer) -> Result<String> {
    let decided = |audited| {
        let verdict = decide(authz, request, audited);
        verdict.ok_or_else(|| anyhow::anyhow!("no step decides"))
    };
    let Verdict { name, allow } = decided(false)?;
    ensure!(allow == (answer == Answer::Passed), "{name}: {answer:?}");
    if let Some(name) = refused_at_handshake(authz, request) {
        return Ok(format!("denied:{name}|-|-"));
    }
    let details = match (allow, request.http.is_some()) {
        (false, _) => format!("rbac_access_denied_matched_policy[{name}]"),
        (true, true) => "direct_response".to_owned(),
        (true, false) => "-".to_owned(),
    };
    let audits = authz.rules.iter().any(|rule| rule.audit);
    if !audits {
        return Ok(format!("{details}|-|-"));
    }
    let Verdict { name, allow } = decided(true)?;
    let result = if allow { "allowed" } else { "denied" };
    Ok(format!("{details}|{name}|{result}"))
}

/// The verdict that refuses a connection of bytes before the application sees it.
pub fn refused_at_handshake(authz: &PortAuthz, request: &Request) -> Option<Arc<str>> {
    let bytes = request.http.is_none();
    bytes
        .then(|| authz::refused_at_handshake(authz, request.peer.as_ref()))
        .flatten()
}

/// Returns the decisions in the log, by port and in their order, once it has this many.
pub fn logged(folder: &Path, decisions: usize) -> Result<BTreeMap<u16, Vec<String>>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
        let lines: Vec<(&str, String)> = text.lines().filter_map(decision).collect();
        if lines.len() >= decisions && (text.is_empty() || text.ends_with('\n')) {
            let mut by_port: BTreeMap<u16, Vec<String>> = BTreeMap::new();
            for (port, text) in lines {
                let of_port = by_port.entry(port.parse()?).or_default();
                of_port.push(text);
            }
            return Ok(by_port);
        }
        let seen = lines.len();
        ensure!(
            Instant::now() < deadline,
            "{seen} of {decisions} are logged"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Port and decision of a line, if it is not of a malformed request.
fn decision(line: &str) -> Option<(&str, String)> {
    let (port, rest) = line.split_once('|')?;
    let (code, text) = rest.split_once('|')?;
    let text = match code {
        "0" => {
            let (details, rest) = text.split_once(' ')?;
            // The name of a cluster has a bar: `in|<port>`.
            let (cluster, audit) = rest.rsplit_once('|').and_then(|(rest, result)| {
                let (cluster, rule) = rest.rsplit_once('|')?;
                Some((cluster, format!("{rule}|{result}")))
            })?;
            let refused = cluster.starts_with("denied:");
            format!("{}|{audit}", if refused { cluster } else { details })
        }
        "200" | "403" => text.to_owned(),
        _ => return None,
    };
    Some((port, text))
}
