//! Requests as lines for people.

use heddle_acceptor::clean;
use heddle_xds_types::edges::Reporter;
use heddle_xds_types::tap::TapLine;

use crate::edges::names;

/// The longest line, in characters.
const MAX_LINE: usize = 4000;
/// The widths of the columns before the request itself. Longer cells move the others.
const WIDTHS: [usize; 7] = [12, 26, 34, 6, 9, 17, 4];

/// The head of the lines.
pub(super) fn head() -> String {
    padded([
        "TIME",
        "FROM",
        "TO",
        "STATUS",
        "DURATION",
        "RECEIVED/SENT",
        "MTLS",
    ]) + "REQUEST"
}

/// One request.
pub(super) fn line(line: &TapLine) -> String {
    let request = &line.request;
    let status = match request.status {
        0 => "-".to_owned(),
        status => status.to_string(),
    };
    let bytes = format!(
        "{}/{}",
        bytes(request.received_bytes),
        bytes(request.sent_bytes)
    );
    let cells = [
        time(request.time_ms),
        from(line),
        to(line),
        status,
        duration(request.duration_us),
        bytes,
        if request.mtls { "yes" } else { "no" }.to_owned(),
    ];
    let mut text = padded(cells.each_ref().map(String::as_str));
    text.push_str(&format!("{} {}", request.method, request.path));
    for (name, value) in [
        ("flags", &request.flags),
        ("policy", &request.policy),
        ("grpc", &request.grpc_status),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("  {name}={value}"));
        }
    }
    for header in &request.headers {
        text.push_str(&format!("  {}={:?}", header.name, header.value));
    }
    clean_line(&text)
}

/// Columns have several spaces, and texts from the mesh have no control characters.
fn clean_line(text: &str) -> String {
    let parts = text.split("  ").map(|part| clean(part, MAX_LINE));
    parts.collect::<Vec<_>>().join("  ")
}

fn padded(cells: [&str; 7]) -> String {
    let cells = cells.iter().zip(WIDTHS);
    cells
        .map(|(cell, width)| format!("{cell:width$}  "))
        .collect()
}

/// The workload of the caller, and its identity if that has another name.
fn from(line: &TapLine) -> String {
    let request = &line.request;
    let (workload, identity) = match reporter(line) {
        Reporter::Source => {
            let own = format!("{}/{}", line.namespace, line.workload);
            (Some(own), &line.identity)
        }
        Reporter::Destination => (line.peer_workload.clone(), &request.peer),
    };
    let account = match &**identity {
        "" => None,
        identity => {
            let caller = names::caller(identity);
            Some(format!("{}/{}", caller.namespace, caller.name))
        }
    };
    match (workload, account) {
        (Some(workload), Some(account)) if workload != account => {
            format!("{workload} as {account}")
        }
        (Some(workload), _) => workload,
        (None, Some(account)) => account,
        (None, None) => {
            let host = request
                .peer_address
                .rsplit_once(':')
                .map_or("", |(host, _)| host);
            format!("{host} (no identity)")
        }
    }
}

/// The service and the pod that answered.
fn to(line: &TapLine) -> String {
    let request = &line.request;
    match reporter(line) {
        Reporter::Destination => match &*request.service {
            "" | "-" => line.pod.clone(),
            service => format!("{service} at {}", line.pod),
        },
        Reporter::Source => match &*request.service {
            "" => request.authority.clone(),
            service => format!("{service} at {}", request.backend_address),
        },
    }
}

fn reporter(line: &TapLine) -> Reporter {
    Reporter::try_from(line.request.reporter).unwrap_or(Reporter::Source)
}

/// The time of the day in UTC.
fn time(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000 % 86_400, ms % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{ms:03}", seconds % 60)
}

fn duration(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{} s", us / 1_000_000),
    }
}

fn bytes(of: u64) -> String {
    match of {
        0..10_000 => format!("{of} B"),
        10_000..10_000_000 => format!("{} kB", of / 1000),
        _ => format!("{} MB", of / 1_000_000),
    }
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    use heddle_xds_types::tap::{Header, TappedRequest};

    let text = || of.text.clone();
    let request = TappedRequest {
        peer: text(),
        peer_address: text(),
        service: text(),
        backend_address: text(),
        authority: text(),
        method: text(),
        path: text(),
        flags: text(),
        policy: text(),
        grpc_status: text(),
        headers: vec![Header {
            name: text(),
            value: text(),
        }],
        ..TappedRequest::default()
    };
    let lines = [Reporter::Source, Reporter::Destination].map(|reporter| {
        line(&TapLine {
            namespace: text(),
            pod: text(),
            workload: text(),
            identity: text(),
            peer_workload: Some(text()),
            request: TappedRequest {
                reporter: reporter.into(),
                ..request.clone()
            },
        })
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use heddle_xds_types::tap::{Header, TappedRequest};

    use super::*;

    fn of_server() -> TapLine {
        TapLine {
            namespace: "shop".to_owned(),
            pod: "reviews-1".to_owned(),
            workload: "reviews".to_owned(),
            request: TappedRequest {
                time_ms: 86_400_000 + 3_723_004,
                reporter: Reporter::Destination.into(),
                peer: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
                service: "reviews".to_owned(),
                method: "GET".to_owned(),
                path: "/a".to_owned(),
                status: 403,
                policy: "shop/deny/0".to_owned(),
                duration_us: 2345,
                sent_bytes: 19,
                mtls: true,
                ..TappedRequest::default()
            },
            ..TapLine::default()
        }
    }

    #[test]
    fn a_line_names_both_ends_and_the_policy() {
        let mut seen = of_server();
        let fields = |seen: &TapLine| -> Vec<String> {
            let text = line(seen);
            text.split("  ")
                .filter(|cell| !cell.is_empty())
                .map(|cell| cell.trim().to_owned())
                .collect()
        };
        assert_eq!(
            fields(&seen),
            [
                "01:02:03.004",
                "shop/web",
                "reviews at reviews-1",
                "403",
                "2.35 ms",
                "0 B/19 B",
                "yes",
                "GET /a",
                "policy=shop/deny/0"
            ]
        );
        seen.peer_workload = Some("shop/frontend".to_owned());
        assert_eq!(fields(&seen)[1], "shop/frontend as shop/web");
        seen.peer_workload = None;
        seen.request.peer = String::new();
        seen.request.peer_address = "10.0.0.9:4711".to_owned();
        assert_eq!(fields(&seen)[1], "10.0.0.9 (no identity)");
    }

    #[test]
    fn text_of_the_mesh_forges_no_line() {
        let mut seen = of_server();
        seen.request.path = "/a\n\u{1b}[2Jb".to_owned();
        seen.request.headers = vec![Header {
            name: "accept".to_owned(),
            value: "a\"\u{202e}\r\n".to_owned(),
        }];
        let text = line(&seen);
        assert!(
            !text.contains(['\n', '\r', '\u{1b}', '\u{202e}']),
            "{text:?}"
        );
    }
}
