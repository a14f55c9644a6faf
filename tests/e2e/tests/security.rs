//! Authorization, tested by traffic.
#![allow(missing_docs)]

mod liar;

use std::time::Duration;

use anyhow::{Context, Result};
use heddle_e2e::{Echo, Load, Namespace, OwnPorts, Probe, eventually};
use liar::{Liar, TEXT};

const PATIENCE: Duration = Duration::from_secs(120);

fn policy(ns: &Namespace, spec: &str) -> Result<()> {
    ns.kubectl.apply(&format!("apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: server}}\nspec:\n{spec}"))?;
    let generation = ns
        .kubectl
        .get("authpolicy/server")?
        .pointer("/metadata/generation")
        .cloned();
    eventually("the policy to be in force", Duration::from_secs(60), || {
        let seen = ns
            .kubectl
            .get("authpolicy/server")?
            .pointer("/status/observedGeneration")
            .cloned();
        let programmed = ns
            .kubectl
            .condition("authpolicy/server", "Programmed")?
            .is_some_and(|(status, _, _)| status == "True");
        Ok((seen == generation && programmed).then_some(()))
    })
}

fn server_and_clients(test: &str) -> Result<Namespace> {
    let ns = Namespace::meshed(test)?;
    ns.kubectl.apply(
        &[
            Echo::new("server").yaml(),
            Echo::new("alice").yaml(),
            Echo::new("bob").yaml(),
        ]
        .concat(),
    )?;
    for name in ["server", "alice", "bob"] {
        Echo::new(name).rolled_out(&ns)?;
    }
    Ok(ns)
}

/// The one status that ten requests from `from` get.
fn verdict(ns: &Namespace, from: &str, path: &str, flags: &[&str]) -> Result<String> {
    let load = flags
        .iter()
        .fold(Load::from(&ns.kubectl, from).flag("-n=10"), |load, flag| {
            load.flag(flag)
        });
    let report = load.run(&format!("http://server{path}"))?;
    let statuses: Vec<_> = report.statuses.keys().cloned().collect();
    anyhow::ensure!(
        statuses.len() == 1 && report.errors == 0,
        "one verdict for all: {report:?}"
    );
    Ok(statuses.concat())
}

#[test]
fn rules_by_identity_method_path_and_header() -> Result<()> {
    let ns = server_and_clients("authz")?;
    let alice = format!("{}/alice", ns.name);
    policy(
        &ns,
        &format!(
            "  selector: {{matchLabels: {{app: server}}}}
  rules:
  - from: {{identities: [{alice}]}}
    to: {{methods: [GET], paths: [/open/*, /exact]}}
  - to: {{headers: [{{name: x-tier, exact: gold}}]}}
  - action: Deny
    to: {{paths: [/open/secret]}}
"
        ),
    )?;
    for (from, path, flags, expected) in [
        ("alice", "/open/a", vec![], "200"),
        ("alice", "/exact", vec![], "200"),
        ("alice", "/exact/not", vec![], "403"),
        ("alice", "/open/a", vec!["-method=POST"], "403"),
        ("alice", "/open/secret", vec![], "403"),
        ("alice", "/open//secret", vec![], "403"),
        ("alice", "/open/%73ecret", vec![], "403"),
        ("bob", "/open/a", vec![], "403"),
        ("bob", "/any", vec!["-H=x-tier: gold"], "200"),
        ("bob", "/open/secret", vec!["-H=x-tier: gold"], "403"),
    ] {
        assert_eq!(
            verdict(&ns, from, path, &flags)?,
            expected,
            "{from} {path} {flags:?}"
        );
    }
    Ok(())
}

#[test]
fn audit_changes_no_verdict() -> Result<()> {
    let ns = server_and_clients("audit")?;
    let alice = format!("{}/alice", ns.name);
    policy(
        &ns,
        &format!(
            "  selector: {{matchLabels: {{app: server}}}}\n  mode: Audit\n  rules: [{{from: {{identities: [{alice}]}}}}]\n"
        ),
    )?;
    assert_eq!(verdict(&ns, "bob", "/", &[])?, "200");
    policy(
        &ns,
        &format!(
            "  selector: {{matchLabels: {{app: server}}}}\n  mode: Enforce\n  rules: [{{from: {{identities: [{alice}]}}}}]\n"
        ),
    )?;
    assert_eq!(verdict(&ns, "bob", "/", &[])?, "403");
    assert_eq!(verdict(&ns, "alice", "/", &[])?, "200");
    Ok(())
}

#[test]
fn strict_refuses_plain_text_and_permissive_lets_an_unmeshed_ingress_in() -> Result<()> {
    let ns = server_and_clients("mtls")?;
    let outside = Namespace::plain("ingress")?;
    Echo::new("ingress").deploy(&outside)?;
    let url = format!("http://server.{}/", ns.name);
    let plain = || {
        Load::from(&outside.kubectl, "ingress")
            .flag("-n=20")
            .run(&url)
    };

    let permissive = plain()?;
    assert_eq!(
        (permissive.status("200"), permissive.errors),
        (20, 0),
        "{permissive:?}"
    );
    let tcp = Load::from(&outside.kubectl, "ingress")
        .flag("-proto=tcp")
        .flag("-n=10")
        .run(&format!("server.{}:3306", ns.name))?;
    assert_eq!(tcp.errors, 0, "{tcp:?}");

    policy(
        &ns,
        "  selector: {matchLabels: {app: server}}\n  mtls: {mode: Strict}\n",
    )?;
    let strict = plain()?;
    assert_eq!(
        strict.status("200"),
        0,
        "plain text must be refused: {strict:?}"
    );
    assert_eq!(
        verdict(&ns, "alice", "/", &[])?,
        "200",
        "a meshed caller goes on"
    );

    policy(
        &ns,
        "  selector: {matchLabels: {app: server}}\n  mtls: {mode: Strict, ports: [{port: 8080, mode: Permissive}]}\n",
    )?;
    let by_port = plain()?;
    assert_eq!(
        (by_port.status("200"), by_port.errors),
        (20, 0),
        "{by_port:?}"
    );
    let tcp = Load::from(&outside.kubectl, "ingress")
        .flag("-proto=tcp")
        .flag("-n=5")
        .run(&format!("server.{}:3306", ns.name))?;
    assert_eq!(tcp.errors, 5, "the other ports stay strict: {tcp:?}");
    Ok(())
}

#[test]
fn probes_pass_under_strict_and_deny_and_nobody_else_does() -> Result<()> {
    let ns = Namespace::meshed("probes")?;
    ns.kubectl.apply(
        "apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: nobody}
spec:
  mtls: {mode: Strict}
  rules: [{from: {identities: [nowhere/nobody]}}]
",
    )?;
    for (name, probe) in [
        ("http", Probe::Http),
        ("grpc", Probe::Grpc),
        ("tcp", Probe::Tcp),
    ] {
        Echo::new(name).probe(probe).deploy(&ns)?;
    }
    let other = Load::from(&ns.kubectl, "grpc")
        .flag("-n=5")
        .run("http://http/healthz")?;
    assert_eq!(
        other.status("403"),
        5,
        "the same path from another pod is denied: {other:?}"
    );
    let outside = Namespace::plain("probes-out")?;
    Echo::new("plain").deploy(&outside)?;
    let ip = ns.kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=http",
        "-o",
        "jsonpath={.items[0].status.podIP}",
    ])?;
    let plain = Load::from(&outside.kubectl, "plain")
        .flag("-n=5")
        .run(&format!("http://{ip}:8080/healthz"))?;
    assert_eq!(plain.status("200"), 0, "{plain:?}");
    Ok(())
}

#[test]
fn an_invalid_split_is_reported_and_the_last_good_stays() -> Result<()> {
    let ns = server_and_clients("faulty")?;
    let split = |weight: &str| {
        format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: TrafficSplit\nmetadata: {{name: server}}\nspec:\n  service: server\n  backends: [{{service: {weight}}}]\n"
        )
    };
    // The schema's own: refused by the API server, naming the field.
    let refused = ns
        .kubectl
        .apply(&split("alice, labels: {a: b}, weight: 1"))
        .expect_err("both service and labels")
        .to_string();
    assert!(refused.contains("backends"), "{refused}");

    ns.kubectl.apply(&split("alice, weight: 1"))?;
    ns.kubectl
        .wait("condition=Programmed", "trafficsplit/server")?;
    Load::from(&ns.kubectl, "bob")
        .flag("-n=5")
        .run("http://server/")?;
    // The status has no copy of a spec that is in force.
    let last_good = |field: &str| {
        let path = format!("jsonpath={{.status.lastGood.{field}}}");
        ns.kubectl.run(&["get", "trafficsplit/server", "-o", &path])
    };
    eventually("the last good generation", Duration::from_secs(30), || {
        Ok((last_good("generation")? == "1").then_some(()))
    })?;
    assert_eq!(last_good("json")?, "");
    // A fault that the schema does not find is in the status, and the last good split stays in force.
    ns.kubectl.apply(&split("missing, weight: 1"))?;
    eventually("ResolvedRefs=False", Duration::from_secs(30), || {
        let condition = ns
            .kubectl
            .condition("trafficsplit/server", "ResolvedRefs")?;
        Ok(condition
            .filter(|(status, _, message)| status == "False" && message.contains("missing")))
    })?;
    let report = Load::from(&ns.kubectl, "bob")
        .flag("-n=20")
        .run("http://server/")?;
    assert_eq!((report.status("200"), report.errors), (20, 0), "{report:?}");
    let in_force = last_good("json")?;
    assert!(in_force.contains("alice"), "{in_force}");

    // A fault that only Envoy finds: its own text comes back on the object that caused it, and others go on.
    ns.kubectl.apply(
        "apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: regex}
spec:
  selector: {matchLabels: {app: alice}}
  rules: [{to: {headers: [{name: x-a, regex: '(unclosed'}]}}]
",
    )?;
    eventually(
        "the proxy's rejection on the object",
        Duration::from_secs(60),
        || {
            let condition = ns.kubectl.condition("authpolicy/regex", "Programmed")?;
            Ok(condition
                .filter(|(status, reason, _)| status == "False" && reason == "RejectedByProxy"))
        },
    )?;
    ns.kubectl.apply(&split("server, weight: 1"))?;
    ns.kubectl
        .wait("condition=Programmed", "trafficsplit/server")
}

/// Every port between the sidecar's lowest and highest, from a pod of another namespace without a sidecar.
#[test]
fn every_port_of_a_sidecar_from_outside() -> Result<()> {
    let ns = server_and_clients("own-ports")?;
    let ports = OwnPorts::of(&ns, "server", "own-ports-out")?;
    ports.refuse("no policy")?;
    let rules = "  rules: [{action: Deny, to: {ports: [15010]}}, {to: {ports: [8080]}}]\n";
    for mode in ["Permissive", "Strict"] {
        policy(
            &ns,
            &format!(
                "  selector: {{matchLabels: {{app: server}}}}\n  mtls: {{mode: {mode}}}\n{rules}"
            ),
        )?;
        ports.refuse(mode)?;
    }
    assert_eq!(ports.restarts(&ns)?, 0, "the sidecar was started again");
    Ok(())
}

/// How often an Event of this reason was published about an object.
fn events(ns: &Namespace, object: &str, reason: &str) -> Result<u64> {
    let selector =
        format!("--field-selector=involvedObject.name={object},reason={reason},type=Warning");
    let list: serde_json::Value = serde_json::from_str(
        &ns.kubectl
            .run(&["get", "events", &selector, "-o", "json"])?,
    )?;
    let items = list.get("items").and_then(|items| items.as_array());
    let count = |event: &serde_json::Value| {
        let series = event.pointer("/series/count").or(event.get("count"));
        series.and_then(serde_json::Value::as_u64).unwrap_or(1)
    };
    Ok(items.into_iter().flatten().map(count).sum())
}

#[test]
fn a_condition_that_turns_false_is_an_event() -> Result<()> {
    let ns = server_and_clients("events")?;
    let target = |service: &str| format!("  target: {{service: {service}}}\n  rules: [{{}}]\n");
    policy(&ns, &target("server"))?;
    let reasons = ["ServiceNotFound", "NothingSelected", "Invalid"];
    for reason in reasons {
        assert_eq!(events(&ns, "server", reason)?, 0, "{reason}");
    }
    ns.kubectl.apply(&format!(
        "apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: server}}\nspec:\n{}",
        target("sevrer")
    ))?;
    eventually("the Event", Duration::from_secs(60), || {
        Ok((events(&ns, "server", "ServiceNotFound")? > 0).then_some(()))
    })?;
    let condition = ns.kubectl.condition("authpolicy/server", "ResolvedRefs")?;
    let (status, reason, _) = condition.unwrap_or_default();
    assert_eq!((&*status, &*reason), ("False", "ServiceNotFound"));

    // Good again, and bad for another reason: that is one more Event. A condition that stays is none.
    let before = events(&ns, "server", "ServiceNotFound")?;
    policy(&ns, &target("server"))?;
    policy(
        &ns,
        "  selector: {matchLabels: {app: nobody}}\n  rules: [{}]\n",
    )?;
    eventually("the second Event", Duration::from_secs(60), || {
        Ok((events(&ns, "server", "NothingSelected")? > 0).then_some(()))
    })?;
    assert_eq!(events(&ns, "server", "ServiceNotFound")?, before);
    let described = ns.kubectl.run(&["describe", "authpolicy/server"])?;
    assert!(described.contains("NothingSelected"), "{described}");
    Ok(())
}

fn programmed(ns: &Namespace) -> Result<(String, String, String)> {
    let condition = ns.kubectl.condition("authpolicy/server", "Programmed")?;
    Ok(condition.unwrap_or_default())
}

fn apply_rules(ns: &Namespace, rules: &str) -> Result<()> {
    ns.kubectl.apply(&format!("apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: server}}\nspec:\n  selector: {{matchLabels: {{app: server}}}}\n  rules: {rules}\n"))?;
    Ok(())
}

/// One pod's client rejects everything, and the other pod of the workload is an honest Envoy.
#[test]
fn a_rejection_counts_for_others_only_if_the_operators_own_envoy_agrees() -> Result<()> {
    let ns = server_and_clients("trial")?;
    Echo::new("server").replicas(2).deploy(&ns)?;
    let [alice, bob] = ["alice", "bob"].map(|name| format!("{}/{name}", ns.name));
    let allow = |who: &str| format!("[{{from: {{identities: [{who}]}}}}]");
    policy(
        &ns,
        &format!(
            "  selector: {{matchLabels: {{app: server}}}}\n  rules: {}\n",
            allow(&alice)
        ),
    )?;
    let pods = ns.kubectl.pods("app=server")?;
    let pod = pods.first().context("no pod of the server")?;
    let liar = Liar::join(&ns, pod, "server", &["in|8080", "in|9090"])?;

    // A sound change: the operator's Envoy accepts it, and every other sidecar runs it.
    apply_rules(&ns, &allow(&bob))?;
    let (_, _, message) = eventually("the liar is named", PATIENCE, || {
        let condition = programmed(&ns)?;
        Ok(
            (condition.0 == "False" && condition.2.contains("own Envoy accepts it"))
                .then_some(condition),
        )
    })?;
    assert!(!message.contains(TEXT), "the liar's words: {message}");
    let accepted = ns.kubectl.condition("authpolicy/server", "Accepted")?;
    assert_eq!(accepted.map(|(status, ..)| status).as_deref(), Some("True"));
    assert_eq!(verdict(&ns, "bob", "/", &[])?, "200");
    assert_eq!(verdict(&ns, "alice", "/", &[])?, "403");

    // A broken one: the honest sidecar and the operator's Envoy reject it, so the last good one stays.
    apply_rules(&ns, "[{to: {headers: [{name: x-tier, regex: '(gold'}]}}]")?;
    eventually("the broken policy is set aside", PATIENCE, || {
        let (_, reason, message) = programmed(&ns)?;
        Ok((reason == "RejectedByProxy" && message.contains("(gold")).then_some(()))
    })?;
    drop(liar);
    assert_eq!(verdict(&ns, "bob", "/", &[])?, "200");
    assert_eq!(verdict(&ns, "alice", "/", &[])?, "403");
    Ok(())
}
