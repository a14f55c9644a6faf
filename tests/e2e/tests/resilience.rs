//! Calls under stress and their routes: copies, users, retries, overload, limits, the choice of an endpoint, and `HTTPRoute`.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_api::experimental::httproutes::HttpRoute;
use heddle_e2e::{
    Answer, Echo, Expected, Ledger, Namespace, PARENT, Report, calls, eventually,
    reviews_with_ledgers,
};
use kube::CustomResourceExt;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until version 2 of reviews has had copies of half of 400 requests, and fails if it has had many more or less: five standard
/// deviations are 50.
fn has_half(ns: &Namespace, before: Ledger) -> Result<()> {
    let copies = || {
        let now = Ledger::of(ns, "deployment/reviews-v2")?;
        anyhow::Ok(now.requests - before.requests)
    };
    eventually("copies at version 2", PATIENCE, || {
        Ok((copies()? >= 150).then_some(()))
    })?;
    let copies = copies()?;
    ensure!((150..=250).contains(&copies), "{copies} copies of 400");
    Ok(())
}

#[test]
fn a_split_divides_by_cookies_and_copies_a_share_of_the_requests() -> Result<()> {
    let ns = reviews_with_ledgers("cookies")?;
    let url = "http://reviews/";
    calls(&ns, 1, &[], url)?;
    ns.put(
        "TrafficSplit",
        "group",
        "{service: reviews, matches: [{cookies: [{name: group, exact: b}]}], backends: [{service: reviews-v2, weight: 1}]}",
    )?;
    let of_group = calls(&ns, 30, &["-H=cookie: theme=dark; group=b"], url)?;
    assert_eq!(of_group.version("v2"), 30, "{of_group:?}");
    let others = calls(&ns, 40, &["-H=cookie: group=bb"], url)?;
    assert_eq!(others.versions.len(), 2, "{others:?}");
    ns.kubectl.run(&["delete", "trafficsplit/group"])?;

    ns.put(
        "TrafficSplit",
        "reviews",
        "{service: reviews, sticky: {cookie: {name: version}}, backends: [{service: reviews-v1, weight: 1}, {service: reviews-v2, weight: 1}]}",
    )?;
    let mut seen = BTreeSet::new();
    // All of 40 users at one version: once in 10^11 runs.
    for _ in 0..40 {
        let first = calls(&ns, 1, &["-last"], url)?;
        let cookie = first.last.as_ref().and_then(|of| of.header("Set-Cookie"));
        let cookie = cookie.and_then(|cookie| cookie.split(';').next());
        let cookie = cookie.with_context(|| format!("no cookie: {first:?}"))?;
        let again = calls(&ns, 20, &[&format!("-H=cookie: {cookie}")], url)?;
        let same = again.versions.keys().eq(first.versions.keys());
        assert!(same, "{cookie}: {first:?} {again:?}");
        seen.extend(again.versions.into_keys());
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2, "all users at {seen:?}");

    let before = Ledger::of(&ns, "deployment/reviews-v2")?;
    ns.put(
        "TrafficSplit",
        "reviews",
        "{service: reviews, backends: [{service: reviews-v1, weight: 1}], mirrors: [{service: reviews-v2, percent: 50}]}",
    )?;
    let report = calls(&ns, 400, &["-ids", "-c=2"], url)?;
    assert_eq!(report.version("v1"), 400, "{report:?}");
    has_half(&ns, before)
}

/// Applies a policy for port 80 of a service.
fn policy(ns: &Namespace, service: &str, spec: &str) -> Result<()> {
    let spec = format!("{{target: {{service: {service}, port: 80}}, {spec}}}");
    ns.put("TrafficPolicy", service, &spec)
}

#[test]
fn a_leaf_that_fails_gets_few_retries_by_default_and_all_with_a_wide_budget() -> Result<()> {
    let ns = Namespace::meshed("budget")?;
    Echo::new("leaf").ledger().deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    calls(&ns, 1, &[], "http://leaf/")?;
    let sent = |count: u64, flags: &[&str]| {
        let before = Ledger::of(&ns, "deployment/leaf")?;
        let url = "http://leaf/?status=503&delay=100ms";
        let report = calls(&ns, count, &[&["-ids"], flags].concat(), url)?;
        ensure!(report.status("503") == count, "{report:?}");
        Ok(Ledger::of(&ns, "deployment/leaf")?.requests - before.requests)
    };
    // Some 20 requests are under way, so that 20 % of them are more than the one retry that is always allowed.
    let retries = "attempts: 3, conditions: [GatewayError]";
    policy(
        &ns,
        "leaf",
        &format!("retries: {{{retries}, backoff: {{base: 500ms}}}}"),
    )?;
    let requests = sent(1000, &["-c=50", "-qps=200"])?;
    assert!((1005..=1200).contains(&requests), "{requests} for 1000");

    policy(
        &ns,
        "leaf",
        &format!("retries: {{{retries}, budget: {{percent: 100, minimum: 1000}}}}"),
    )?;
    let requests = sent(100, &["-c=10"])?;
    assert_eq!(requests, 400, "for 100");
    Ok(())
}

#[test]
fn requests_beyond_the_limits_of_a_caller_and_of_a_server_are_refused() -> Result<()> {
    let ns = Namespace::meshed("overload")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    let url = "http://server/?delay=200ms";
    let all = calls(&ns, 80, &["-c=40"], url)?;
    assert_eq!(all.status("200"), 80, "{all:?}");
    for bounds in [
        "limits: {requests: 5}",
        "limits: {connections: 1, pendingRequests: 1}",
        "overload: {concurrency: {latency: 200ms, min: 1, max: 3}}",
    ] {
        policy(&ns, "server", bounds)?;
        let report = calls(&ns, 400, &["-c=40"], url)?;
        let (taken, refused) = (report.status("200"), report.status("503"));
        assert_eq!(taken + refused, 400, "{bounds}: {report:?}");
        // The others of 40 at a time are refused at once, again and again.
        assert!(taken >= 1 && refused >= 200, "{bounds}: {report:?}");
    }

    policy(
        &ns,
        "server",
        "overload: {admission: {successPercent: 95, window: 10s, minRequestsPerSecond: 0}}",
    )?;
    let failing = "http://server/?status=500";
    calls(&ns, 100, &["-c=4", "-qps=100"], failing)?;
    let report = calls(&ns, 300, &["-c=4", "-qps=150"], failing)?;
    // At most 80 % are refused.
    let (failed, refused) = (report.status("500"), report.status("503"));
    assert_eq!(failed + refused, 300, "{report:?}");
    assert!(failed >= 20 && refused >= 60, "{report:?}");

    ns.kubectl.run(&["delete", "trafficpolicy/server"])?;
    eventually("no limit", Duration::from_secs(60), || {
        let report = calls(&ns, 80, &["-c=40"], url)?;
        Ok((report.status("200") == 80).then_some(()))
    })
}

/// The pod that each of 12 users gets, by five calls each.
fn pods_of_users(
    ns: &Namespace,
    call: impl Fn(u32) -> (String, String),
) -> Result<BTreeMap<u32, String>> {
    let users = (0..12).map(|user| {
        let (flag, path) = call(user);
        let flags: &[&str] = if flag.is_empty() { &[] } else { &[&flag] };
        let report = calls(ns, 5, flags, &format!("http://server{path}"))?;
        ensure!(report.pods.len() == 1, "user {user}: {report:?}");
        let pod = report.pods.into_keys().next().context("a pod")?;
        Ok((user, pod))
    });
    users.collect()
}

#[test]
fn endpoints_are_chosen_as_the_policy_says() -> Result<()> {
    let ns = Namespace::meshed("balancing")?;
    Echo::new("server").replicas(3).deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    let spread = |count: u64, flags: &[&str]| calls(&ns, count, flags, "http://server/");
    eventually("all three pods", PATIENCE, || {
        Ok((spread(30, &[])?.pods.len() == 3).then_some(()))
    })?;
    // In turn: a third each. By chance, or by the requests under way: all get some, five standard deviations are 41.
    for (mode, flags, least) in [
        ("RoundRobin", &[][..], 90),
        ("LeastRequest", &["-c=4"], 50),
        ("Random", &["-c=4"], 59),
    ] {
        policy(&ns, "server", &format!("loadBalancing: {{mode: {mode}}}"))?;
        let report = spread(300, flags)?;
        assert_eq!(report.status("200"), 300, "{mode}: {report:?}");
        let enough = report.pods.values().filter(|count| **count >= least);
        assert_eq!(enough.count(), 3, "{mode}: {report:?}");
    }

    type Call = fn(u32) -> (String, String);
    let keys: [(&str, Call); 3] = [
        ("key: Header, name: x-user", |user| {
            (format!("-H=x-user: {user}"), "/".to_owned())
        }),
        ("key: Cookie, name: user", |user| {
            (
                format!("-H=cookie: theme=dark; user={user}"),
                "/".to_owned(),
            )
        }),
        ("key: QueryParameter, name: user", |user| {
            (String::new(), format!("/?user={user}"))
        }),
    ];
    for (hash, call) in keys {
        policy(
            &ns,
            "server",
            &format!("loadBalancing: {{mode: ConsistentHash, hash: {{{hash}}}}}"),
        )?;
        let users = pods_of_users(&ns, call)?;
        let pods: BTreeSet<&String> = users.values().collect();
        // All of 12 users at one of three pods: once in 177,000 runs.
        assert!(pods.len() > 1, "{hash}: {users:?}");
    }
    policy(
        &ns,
        "server",
        "loadBalancing: {mode: ConsistentHash, hash: {key: SourceAddress}}",
    )?;
    let report = spread(60, &["-c=4"])?;
    assert_eq!(report.pods.len(), 1, "one caller at one pod: {report:?}");
    Ok(())
}

/// A rule for each feature, and one for all other requests. All of them lead to version 1.
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
  - matches: [{path: {value: /slow}}]
    timeouts: {request: 300ms}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /failing}}]
    retry: {attempts: 2, backoff: 10ms, codes: [503]}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /scripts}}]
    filters: [{type: CORS, cors: {allowOrigins: ['https://shop.example'], allowMethods: [PUT]}}]
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {hostname: shop.example, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
  - matches: [{path: {value: /old}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: reviews.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /changed}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-tier, value: gold}], add: [{name: x-hop, value: mesh}], remove: [x-debug]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-version, value: changed}], remove: [x-pod]}}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /copied}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: reviews-v2, port: 80}, percent: 50}}]
    backendRefs: [{name: reviews-v1, port: 80}]
  - backendRefs: [{name: reviews-v1, port: 80}]
";

/// One call of reviews, and its answer.
fn answer(ns: &Namespace, flags: &[&str], path: &str) -> Result<(Report, Answer)> {
    let flags = [&["-last"], flags].concat();
    let mut report = calls(ns, 1, &flags, &format!("http://reviews{path}"))?;
    let answer = report.last.take().context("no answer")?;
    Ok((report, answer))
}

#[test]
fn the_filters_timeouts_and_retries_of_a_route_apply() -> Result<()> {
    let ns = reviews_with_ledgers("filters")?;
    let definition = serde_json::to_value(HttpRoute::crd())?;
    ns.kubectl.define(definition, "v1")?;
    ns.kubectl.apply(ROUTE)?;
    // The client needs the route once it calls.
    calls(&ns, 1, &[], "http://reviews/")?;
    let programmed = [Expected::PROGRAMMED];
    ns.kubectl
        .conditions("httproute/reviews", PARENT, &programmed)?;
    let others = calls(&ns, 20, &[], "http://reviews/")?;
    assert_eq!(others.version("v1"), 20, "{others:?}");

    let late = calls(&ns, 5, &[], "http://reviews/slow?delay=3s")?;
    assert_eq!(late.status("504"), 5, "{late:?}");

    let before = Ledger::of(&ns, "deployment/reviews-v1")?;
    let failing = calls(&ns, 10, &["-ids"], "http://reviews/failing?status=503")?;
    assert_eq!(failing.status("503"), 10, "{failing:?}");
    let after = Ledger::of(&ns, "deployment/reviews-v1")?;
    assert_eq!(
        after.requests - before.requests,
        30,
        "each sent three times"
    );

    changes_of_requests_and_answers(&ns)?;
    allows_scripts_of_one_origin(&ns)?;

    let before = Ledger::of(&ns, "deployment/reviews-v2")?;
    let copied = calls(&ns, 400, &["-ids", "-c=2"], "http://reviews/copied")?;
    assert_eq!(copied.version("v1"), 400, "{copied:?}");
    has_half(&ns, before)?;
    ns.kubectl.run(&["delete", "httproute/reviews"])?;
    Ok(())
}

fn changes_of_requests_and_answers(ns: &Namespace) -> Result<()> {
    let (report, moved) = answer(ns, &[], "/moved/a?b=c")?;
    assert_eq!(report.status("301"), 1, "{report:?}");
    let location = moved.header("Location");
    assert_eq!(location, Some("http://shop.example/new/a?b=c"));

    let (_, old) = answer(ns, &[], "/old/a?b=c")?;
    let request = old.request()?;
    let field = |name: &str| request.get(name).and_then(Value::as_str);
    assert_eq!(field("path"), Some("/new/a?b=c"), "{request}");
    assert_eq!(field("host"), Some("reviews.example"), "{request}");

    let flags = ["-H=x-debug: 1", "-H=x-hop: client"];
    let (report, changed) = answer(ns, &flags, "/changed")?;
    let request = changed.request()?;
    let headers = request.get("headers").cloned().unwrap_or_default();
    let tier = headers.pointer("/X-Tier/0").and_then(Value::as_str);
    assert_eq!(tier, Some("gold"), "{headers}");
    // Two lines, or one with both values.
    let hops = headers
        .get("X-Hop")
        .cloned()
        .unwrap_or_default()
        .to_string();
    assert!(
        hops.contains("client") && hops.contains("mesh"),
        "{headers}"
    );
    assert!(headers.get("X-Debug").is_none(), "{headers}");
    assert_eq!(report.version("changed"), 1, "{report:?}");
    assert!(report.pods.is_empty(), "{report:?}");
    Ok(())
}

fn allows_scripts_of_one_origin(ns: &Namespace) -> Result<()> {
    const ALLOWED: &str = "Access-Control-Allow-Origin";
    for (origin, allowed) in [
        ("https://shop.example", Some("https://shop.example")),
        ("https://other.example", None),
    ] {
        let origin = format!("-H=origin: {origin}");
        let (_, simple) = answer(ns, &[&origin], "/scripts")?;
        assert_eq!(simple.header(ALLOWED), allowed, "{origin}: {simple:?}");
        let flags = [
            &*origin,
            "-method=OPTIONS",
            "-H=access-control-request-method: PUT",
        ];
        let (report, preflight) = answer(ns, &flags, "/scripts")?;
        assert_eq!(report.status("200"), 1, "{origin}: {report:?}");
        // The sidecar answers it.
        assert!(report.versions.is_empty(), "{origin}: {report:?}");
        assert_eq!(
            preflight.header(ALLOWED),
            allowed,
            "{origin}: {preflight:?}"
        );
    }
    Ok(())
}
