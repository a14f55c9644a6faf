//! Requests and answers that are odd and legal arrive through two sidecars as they do without a mesh.
//!
//! Each case is sent twice: to the application itself, and through the sidecars. The application must see the same request, and the caller
//! the same answer, but for [`may_differ`].

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "odd_requests/cases.rs"]
mod cases;
mod harness;
#[path = "odd_requests/message.rs"]
mod message;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cases::Case;
use harness::running::{Trust, connect, serve, start_as_is};
use message::{Message, Reader, Without};

const PORT: u16 = 8001;
const APPLICATION: &str = "127.113.0.3";
const SIDECAR: &str = "127.113.0.6";
const PATIENCE: Duration = Duration::from_secs(10);

fn world() -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: api, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, selector: {{app: api}}, ports: [{{name: http, port: {PORT}}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: api-1, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}\naddressType: IPv4\nports: [{{name: http, port: {PORT}}}]\nendpoints: [{{addresses: [127.113.0.2], targetRef: {{kind: Pod, name: api, namespace: shop}}}}]\n"
    );
    let upstream = format!("shop/api:{PORT}={SIDECAR}:{PORT}");
    for (pod, ip, app, upstreams) in [("api", 2, 3, ""), ("client", 4, 5, &*upstream)] {
        writeln!(text, "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: shop, labels: {{app: {pod}}}, annotations: {{heddle.dev/standalone-app: 127.113.0.{app}, heddle.dev/standalone-upstreams: \"{upstreams}\"}}}}\nspec: {{serviceAccountName: {pod}, containers: [{{name: app}}]}}\nstatus: {{podIPs: [{{ip: 127.113.0.{ip}}}]}}").unwrap();
    }
    text
}

/// An application that answers every request with the same bytes, and shows the requests.
struct Application {
    answer: Arc<Mutex<Vec<u8>>>,
    requests: Receiver<Result<Message>>,
    /// One for each connection that both sides have closed.
    closed: Receiver<()>,
}

impl Application {
    fn start() -> Result<Self> {
        let answer = Arc::new(Mutex::new(Vec::new()));
        let (seen, requests): (Sender<Result<Message>>, _) = channel();
        let (ended, closed) = channel();
        let bytes = Arc::clone(&answer);
        serve(format!("{APPLICATION}:{PORT}"), move |stream| {
            let request = Reader::new(stream).message(Without::Body);
            let _ = seen.send(request);
            let _ = stream.write_all(&bytes.lock().unwrap().clone());
            let _ = stream.shutdown(Shutdown::Write);
            let _ = std::io::copy(stream, &mut std::io::sink());
            let _ = ended.send(());
        })?;
        Ok(Self {
            answer,
            requests,
            closed,
        })
    }

    /// Sends a case to an address. Returns the request that arrived, and the answers.
    fn ask(&self, at: &str, case: &Case) -> Result<(Message, Vec<Message>)> {
        self.answer.lock().unwrap().clone_from(&case.answer);
        let mut stream = connect(at)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&case.request)?;
        let answers = answers(&mut stream, &case.request);
        let request = self.requests.recv_timeout(PATIENCE);
        let request = request.with_context(|| format!("no request arrived; {answers:?}"))?;
        // The sidecar must not send the next request on a connection that the application is closing.
        drop(stream);
        self.closed
            .recv_timeout(PATIENCE)
            .context("the connection to the application stays open")?;
        Ok((
            request.context("the request")?,
            answers.context("the answer")?,
        ))
    }
}

/// The final answer and those before it.
fn answers(stream: &mut TcpStream, request: &[u8]) -> Result<Vec<Message>> {
    let without = match request.starts_with(b"HEAD ") {
        true => Without::Body,
        false => Without::Length,
    };
    let mut reader = Reader::new(stream);
    let mut answers = Vec::new();
    loop {
        let answer = reader.message(without)?;
        let last = answer.line.get(9..10) != Some("1");
        answers.push(answer);
        if last {
            return Ok(answers);
        }
    }
}

/// Takes away the parts that a proxy may or must change: the version of the hop, headers of one hop, headers that our sidecars add, a date
/// where there was none, the spelling of trailers, and the order of different headers.
fn may_differ(mut message: Message) -> Message {
    const HOP: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "trailer",
        "te",
    ];
    const OURS: [&str; 2] = ["x-forwarded-client-cert", "x-forwarded-proto"];
    message.line = message.line.replace("HTTP/1.0", "HTTP/1.1");
    message.headers.retain(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let empty = name == "content-length" && value == b"0";
        !HOP.contains(&&*name) && !OURS.contains(&&*name) && name != "date" && !empty
    });
    let lower = |(name, value): (String, Vec<u8>)| (name.to_ascii_lowercase(), value);
    message.trailers = message.trailers.into_iter().map(lower).collect();
    // Stable: lines of one name keep their order.
    let key = |(name, _): &(String, Vec<u8>)| name.to_ascii_lowercase();
    message.headers.sort_by_key(key);
    message
}

fn equal(what: &str, direct: Message, meshed: Message) -> Result<()> {
    let (direct, meshed) = (may_differ(direct), may_differ(meshed));
    ensure!(
        direct == meshed,
        "{what} without a mesh: {}\nand through the sidecars: {}",
        shown(&direct),
        shown(&meshed)
    );
    Ok(())
}

fn shown(message: &Message) -> String {
    let headers: Vec<String> = (message.headers.iter().chain(&message.trailers))
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
        .collect();
    let body = String::from_utf8_lossy(&message.body);
    let text = format!("{} | {} | {body:?}", message.line, headers.join(" | "));
    text.chars().take(600).collect()
}

fn same(application: &Application, case: &Case) -> Result<()> {
    let direct = application.ask(&format!("{APPLICATION}:{PORT}"), case);
    let (request, answers) = direct.context("without a mesh")?;
    let meshed = application.ask(&format!("{SIDECAR}:{PORT}"), case);
    let (seen, got) = meshed.context("through the sidecars")?;
    equal("the request", request, seen)?;
    ensure!(
        answers.len() == got.len(),
        "{} answers, not {}",
        got.len(),
        answers.len()
    );
    for (direct, meshed) in answers.into_iter().zip(got) {
        equal("the answer", direct, meshed)?;
    }
    Ok(())
}

#[test]
fn odd_requests_and_answers_are_the_same_with_and_without_a_mesh() -> Result<()> {
    let (compiled, trust, folder) = (
        harness::compiled(&world()),
        Trust::new()?,
        tempfile::tempdir()?,
    );
    let application = Application::start()?;
    let start = |pod, admin| start_as_is(&compiled, pod, &trust, folder.path(), admin);
    let _server = start("api", "127.113.0.8:9901")?;
    let _client = start("client", "127.113.0.9:9901")?;
    let cases = cases::all();
    ensure!(cases.len() >= 60, "{} cases", cases.len());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            Some(format!(
                "{}: {:#}",
                case.name,
                same(&application, case).err()?
            ))
        })
        .collect();
    for line in cases::REFUSED {
        let request = format!("{line}\r\nHost: api\r\nConnection: close\r\n\r\n");
        let mut stream = connect(&format!("{SIDECAR}:{PORT}"))?;
        stream.write_all(request.as_bytes())?;
        let got = answers(&mut stream, b"")?;
        ensure!(got[0].line.starts_with("HTTP/1.1 400 "), "{line}: {got:?}");
    }
    ensure!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    Ok(())
}
