//! The cost of access logs in a real Envoy, a client's sidecar: CPU of a request, and memory of a destination. Run by hand:
//! `cargo bench -p heddle-policy-compiler --bench log_cost`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement"
)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use harness::running::{Envoy, Trust, connect, http, serve, start};
use harness::shop;
use heddle_policy_compiler::Compiled;
use serde_json::Value;

const NET: &str = "127.93.0";
const ADMIN: &str = "127.93.0.9:9901";
const PORT: u16 = 8501;
/// Requests of a turn.
const REQUESTS: usize = 400;
const ROUNDS: usize = 25;
/// Destinations for the figure of memory.
const DESTINATIONS: u8 = 200;

/// A client that calls so many services, all with one endpoint.
fn compiled(services: u8) -> Compiled {
    let name = |index: u8| format!("s{index}");
    let upstream = |index: u8| format!("shop/{}:{PORT}=127.93.1.{index}:{PORT}", name(index));
    let upstreams: Vec<String> = (1..=services).map(upstream).collect();
    let application = [format!("{NET}.5")];
    let endpoints: Vec<&str> = application.iter().map(String::as_str).collect();
    let mut world = shop::client(NET, &upstreams);
    for index in 1..=services {
        world += &shop::service(&name(index), index.into(), ("http", PORT), &endpoints);
    }
    harness::compiled(&world)
}

/// Removes the logger from the destinations with these names.
fn without_log(config: &mut Value, named: impl Fn(&str) -> bool) {
    let listeners = config["static_resources"]["listeners"].as_array_mut();
    for listener in listeners.unwrap() {
        let name = listener["name"].as_str().unwrap();
        if name.starts_with("dst|") && named(name) {
            let hcm = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            let loggers = hcm["access_log"].as_array_mut().unwrap();
            loggers.retain(|logger| logger["name"] != "log");
        }
    }
}

fn answer(stream: &mut TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
        while let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            seen.drain(..end + 4);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    }
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"GET /items HTTP/1.1\r\nhost: api\r\nx-request-id: 1\r\n\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "closed");
        answer.extend_from_slice(&buffer[..read]);
    }
    Ok(())
}

/// Microseconds that the threads of a process have run.
fn cpu(envoy: &Envoy) -> Result<f64> {
    let mut total = 0.0;
    for task in fs::read_dir(format!("/proc/{}/task", envoy.id()))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let run = text.split(' ').next().context("schedstat")?;
        total += run.parse::<f64>()? / 1_000.0;
    }
    Ok(total)
}

fn cpu_of_a_request() -> Result<()> {
    let (folder, none) = (tempfile::tempdir()?, BTreeSet::new());
    let unlogged = format!("dst|127.93.1.1:{PORT}");
    let edit = |config: &mut Value| without_log(config, |name| name == unlogged);
    let (compiled, pod) = (compiled(2), ("client", &none));
    serve(format!("{NET}.5:{PORT}"), answer)?;
    let envoy = start(&compiled, pod, &Trust::new()?, folder.path(), ADMIN, edit)?;
    let mut streams = Vec::new();
    for index in [1, 2] {
        streams.push(connect(&format!("127.93.1.{index}:{PORT}"))?);
    }
    // The listener, the runtime values, and the name.
    let turns = [
        (0, "heddle.log=0", "without the logger"),
        (1, "heddle.log=0", "off"),
        (
            1,
            "heddle.log=10000&heddle.log.others=0&heddle.log.status=500",
            "failures, and there are none",
        ),
        (1, "heddle.log=100&heddle.log.others=10000", "1 %"),
        (
            1,
            "heddle.log=10000&heddle.log.others=10000",
            "every request",
        ),
    ];
    let mut least = [f64::INFINITY; 5];
    for _ in 0..ROUNDS {
        for ((listener, values, _), least) in turns.iter().zip(&mut least) {
            http(ADMIN, "POST", &format!("/runtime_modify?{values}"), "")?;
            ask(&mut streams[*listener])?;
            let before = cpu(&envoy)?;
            for _ in 0..REQUESTS {
                ask(&mut streams[*listener])?;
            }
            *least = least.min((cpu(&envoy)? - before) / REQUESTS as f64);
        }
    }
    println!("CPU of the client's sidecar, least of {ROUNDS} rounds of {REQUESTS} requests");
    for ((.., name), cpu) in turns.iter().zip(least) {
        let more = 100.0 * (cpu / least[0] - 1.0);
        println!("{name}: {cpu:.1} us ({more:+.1} %)");
    }
    Ok(())
}

/// Bytes that the Envoy of a client's sidecar has allocated.
fn memory(logs: bool) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let (none, trust) = (BTreeSet::new(), Trust::new()?);
    let edit = |config: &mut Value| without_log(config, |_| !logs);
    let (compiled, pod) = (compiled(DESTINATIONS), ("client", &none));
    let _envoy = start(&compiled, pod, &trust, folder.path(), ADMIN, edit)?;
    let answer = http(ADMIN, "GET", "/memory", "")?;
    let allocated = answer.split("\"allocated\": \"").nth(1);
    let bytes = allocated.and_then(|rest| rest.split('"').next());
    Ok(bytes.context(answer.clone())?.parse()?)
}

fn main() -> Result<()> {
    let [without, with] = [memory(false)?, memory(true)?];
    let each = (with - without) / u64::from(DESTINATIONS);
    println!("the logger of an HTTP destination: {each} bytes of memory");
    cpu_of_a_request()
}
