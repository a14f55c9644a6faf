//! Traces of real Envoys: calls over four hops, with real mTLS on loopback and a real collector.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "harness/collector.rs"]
mod collector;
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use collector::{Collector, Received};
use harness::chain::{Chain, HTTP, OTLP, SPANS, application, line, mesh, workload};
use harness::running::{Envoy, Trust, http, serve, start, status};
use heddle_policy_compiler::Compiled;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks that the spans are one trace over all hops, each the child of the one before. Returns its id and the parent of the first.
fn one_trace(spans: &[Received]) -> Result<(String, String)> {
    let by_id: BTreeMap<_, _> = spans.iter().map(|of| (&of.span.span_id, of)).collect();
    let first = spans
        .iter()
        .find(|of| !by_id.contains_key(&of.span.parent_span_id));
    let mut found = vec![first.context("no root")?];
    while let Some(child) = spans
        .iter()
        .find(|of| of.span.parent_span_id == found[found.len() - 1].span.span_id)
    {
        found.push(child);
    }
    let path: Vec<_> = found
        .iter()
        .map(|of| (&*of.service, &*of.span.name, of.span.kind()))
        .collect();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|to| format!("{to}.shop:{HTTP}"));
    let expected = [
        ("client", &*a, SpanKind::Client),
        ("a", &*a, SpanKind::Server),
        ("a", &*b, SpanKind::Client),
        ("b", &*b, SpanKind::Server),
        ("b", &*c, SpanKind::Client),
        ("c", &*c, SpanKind::Server),
        ("c", &*d, SpanKind::Client),
        ("d", &*d, SpanKind::Server),
    ];
    ensure!(path == expected, "{path:#?}");
    let id = &found[0].span.trace_id;
    ensure!(spans.iter().all(|of| of.span.trace_id == *id), "{spans:#?}");
    Ok((hex(id), hex(&found[0].span.parent_span_id)))
}

/// Removes and returns the spans, once those of a trace over all hops have come. Each sidecar sends its spans in order.
fn until_whole(collector: &Collector, trace: &str) -> Result<Vec<Received>> {
    let of_it = |of: &&Received| hex(&of.span.trace_id) == trace;
    collector.take_once(|spans| spans.iter().filter(of_it).count() >= SPANS)
}

#[test]
fn a_call_over_four_hops_is_one_trace_and_parents_decide() -> Result<()> {
    let collector = Collector::start(&Chain::collector(94))?;
    let chain = Chain::start(
        94,
        "tracing: {percent: 50, tags: [{name: env, literal: \"%PROTOCOL%\"}, {name: tenant, requestHeader: x-tenant}]}",
    )?;
    let parent = |flags: &str| format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n");

    // A part of the requests begins a trace, and their id makes no difference.
    for _ in 0..40 {
        chain.call("x-request-id: always the same\r\n")?;
    }
    chain.set("tracing.random_sampling=0")?;
    chain.call(&parent("01"))?;
    let spans = until_whole(&collector, TRACE)?;
    let traces: BTreeSet<_> = spans.iter().map(|of| &of.span.trace_id).collect();
    // With that of the sampled parent.
    ensure!((2..=40).contains(&traces.len()), "{}", traces.len());

    // Nothing begins a trace, and a sampled parent is followed.
    let heads = chain.call("")?;
    ensure!(
        line(&heads, "traceparent").is_some_and(|line| line.ends_with("-00")),
        "{heads}"
    );
    ensure!(line(&heads, "x-request-id").is_none(), "{heads}");
    let heads = chain.call(&(parent("01") + "X-Request-Id: my id\r\nx-tenant: blue\r\n"))?;
    let last = line(&heads, "traceparent").unwrap_or_default();
    ensure!(last.contains(TRACE) && last.ends_with("-01"), "{heads}");
    ensure!(
        line(&heads, "x-request-id") == Some("X-Request-Id: my id"),
        "{heads}"
    );
    ensure!(!heads.to_lowercase().contains("x-heddle"), "{heads}");
    let spans = collector.take(SPANS)?;
    ensure!(one_trace(&spans)? == (TRACE.to_owned(), PARENT.to_owned()));
    let of = |service: &str| spans.iter().find(|of| of.service == service).unwrap();
    ensure!(
        of("client").attribute("tenant") == Some("blue"),
        "{spans:#?}"
    );
    ensure!(of("d").attribute("tenant").is_none(), "{spans:#?}");
    for of in &spans {
        let path = if of.span.name.starts_with("a.") {
            "/first"
        } else {
            "/next"
        };
        let url = format!("http://api{path}");
        ensure!(of.attribute("http.url") == Some(&url), "{of:#?}");
        ensure!(of.attribute("env") == Some("%PROTOCOL%"), "{of:#?}");
        ensure!(of.attribute("http.status_code") == Some("200"), "{of:#?}");
        ensure!(!format!("{of:?}").contains("SECRET"), "{of:#?}");
    }

    // Everything begins a trace, and a parent that is not sampled is followed.
    chain.set("tracing.random_sampling=100")?;
    let heads = chain.call(&parent("00"))?;
    let last = line(&heads, "traceparent").unwrap_or_default();
    ensure!(last.contains(TRACE) && last.ends_with("-00"), "{heads}");
    let heads = chain.call("")?;
    let (trace, parent) = one_trace(&collector.take(SPANS)?)?;
    ensure!(heads.contains(&trace) && parent.is_empty(), "{heads}");
    Ok(())
}

/// A collector refuses all spans that come with a text that is not UTF-8, so no client may put one into a span.
#[test]
fn odd_bytes_of_a_client_cost_no_span() -> Result<()> {
    let collector = Collector::start(&Chain::collector(93))?;
    let tenant = "tags: [{name: tenant, requestHeader: x-tenant}]";
    let chain = Chain::start(93, &format!("tracing: {{percent: 100, {tenant}}}"))?;
    let parent = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n");
    for name in [
        "user-agent",
        "x-request-id",
        "x-client-trace-id",
        "x-envoy-downstream-service-cluster",
        "x-tenant",
        "grpc-timeout",
        "tracestate",
    ] {
        for odd in ["", "content-type: application/grpc+"] {
            let line = [name.as_bytes(), b": a\xff\xc3b\r\n"].concat();
            let odd = match odd {
                "" => Vec::new(),
                odd => [odd.as_bytes(), b"\xff\r\n"].concat(),
            };
            chain.call_with(&[parent.as_bytes(), &*line, &*odd].concat())?;
            let spans = collector.take(SPANS).context(name)?;
            one_trace(&spans).context(name)?;
            ensure!(!format!("{spans:?}").contains("SECRET"), "{spans:#?}");
        }
    }
    Ok(())
}

/// The sidecars of a client and of a server that it calls.
fn pair(compiled: &Compiled, trust: &Trust, folder: &Path, net: &str) -> Result<[Envoy; 2]> {
    let none = BTreeSet::new();
    let sidecar = |pod, index| {
        let admin = format!("{net}.{index}.9:9901");
        start(compiled, (pod, &none), trust, folder, &admin, |_| {})
    };
    Ok([sidecar("client", 0)?, sidecar("a", 1)?])
}

#[test]
fn a_collector_outside_is_called_by_tls_of_its_own_authority() -> Result<()> {
    let (net, own, other) = ("127.98", Trust::new()?, Trust::new()?);
    let (folder, trust) = (tempfile::tempdir()?, Trust::new()?);
    serve(format!("{net}.1.2:{HTTP}"), |stream| {
        application(stream, None);
    })?;
    let host = format!("{net}.8.1");
    let collector = Collector::start_by_tls(&format!("{host}:{OTLP}"), &own.issue_for(&host)?)?;
    for (authority, is_believed) in [(&other, false), (&own, true)] {
        let upstream = format!("{net}.0.3:{HTTP}");
        let mut world = workload(net, 0, "client", HTTP, &format!("shop/a:{HTTP}={upstream}"));
        world += &workload(net, 1, "a", HTTP, "");
        let pem = serde_json::to_string(authority.ca())?;
        let address = format!("address: {{host: {host}, tls: {{caCertificates: {pem}}}}}");
        world += &mesh(&address, "tracing: {percent: 100}");
        let compiled = harness::compiled(&world);
        ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
        let admin = format!("{net}.0.9:9901");
        let _envoys = pair(&compiled, &trust, folder.path(), net)?;
        let flush = "/runtime_modify?tracing.opentelemetry.min_flush_spans=1";
        http(&admin, "POST", flush, "")?;
        let answer = http(&upstream, "GET", "/", "")?;
        ensure!(status(&answer) == 200, "{answer}");
        match is_believed {
            true => _ = collector.take_once(|spans| !spans.is_empty())?,
            false => {
                let failed = "cluster.otlp.ssl.fail_verify_(error|san)";
                let deadline = Instant::now() + Duration::from_secs(20);
                while counters(&admin, failed)? == 0 {
                    ensure!(Instant::now() < deadline, "the certificate is not refused");
                    std::thread::sleep(Duration::from_millis(50));
                }
                ensure!(collector.spans().is_empty(), "{:#?}", collector.spans());
            }
        }
    }
    Ok(())
}

/// The sum of the counters of a sidecar by an expression.
fn counters(admin: &str, expression: &str) -> Result<u64> {
    let text = http(admin, "GET", &format!("/stats?filter={expression}"), "")?;
    let values = text.lines().filter_map(|line| line.split_once(": "));
    let values = values.filter(|(name, _)| name.starts_with("cluster."));
    Ok(values
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum())
}

/// The value of a counter of a sidecar.
fn counter(admin: &str, name: &str) -> Result<u64> {
    let text = http(admin, "GET", &format!("/stats?filter={name}$"), "")?;
    let value = text.split(&format!("{name}: ")).nth(1);
    let value = value.and_then(|rest| rest.lines().next());
    Ok(value.context(text.clone())?.parse()?)
}

#[test]
fn a_collector_that_is_slow_or_gone_costs_no_request_and_its_loss_is_counted() -> Result<()> {
    let net = "127.95";
    let (folder, trust) = (tempfile::tempdir()?, Trust::new()?);
    // It takes connections, and answers nothing.
    let silent = std::net::TcpListener::bind(format!("{net}.8.1:{OTLP}"))?;
    serve(format!("{net}.1.2:{HTTP}"), |stream| {
        application(stream, None);
    })?;
    for (host, counted) in [
        ("8.1", "cluster.otlp.upstream_rq_active_overflow"),
        ("8.2", "cluster.otlp.upstream_rq_503"),
    ] {
        let upstream = format!("{net}.0.3:{HTTP}");
        let mut world = workload(net, 0, "client", HTTP, &format!("shop/a:{HTTP}={upstream}"));
        world += &workload(net, 1, "a", HTTP, "");
        let address = format!("address: {{host: {net}.{host}}}");
        world += &mesh(&address, "tracing: {percent: 100}");
        let compiled = harness::compiled(&world);
        ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
        let _envoys = pair(&compiled, &trust, folder.path(), net)?;
        let admin = format!("{net}.0.9:9901");
        http(
            &admin,
            "POST",
            "/runtime_modify?tracing.opentelemetry.min_flush_spans=1",
            "",
        )?;
        for _ in 0..40 {
            let answer = http(&upstream, "GET", "/", "")?;
            ensure!(status(&answer) == 200, "{answer}");
        }
        let lost = counter(&admin, counted)?;
        ensure!((20..=40).contains(&lost), "{counted}: {lost}");
    }
    drop(silent);
    Ok(())
}
