//! The commands for the way to a strict mesh, on a cluster.

use std::process::Command;

use anyhow::Result;
use heddle_e2e::{Echo, Load, Namespace, eventually};
use serde_json::Value;

use super::{PATIENCE, heddle, run_heddle};

/// The plan of a namespace, once it is as wanted.
fn planned(ns: &Namespace, what: &str, code: i32, wanted: &dyn Fn(&Value) -> bool) -> Result<()> {
    eventually(what, PATIENCE, || {
        let output = run_heddle(&["mtls", "plan", &ns.name, "-o", "json"])?;
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok((output.status.code() == Some(code) && wanted(&plan)).then_some(()))
    })
}

/// Probes of the kubelet are not callers in plain text; a caller without a sidecar is one.
pub fn plan_names_callers_in_plain_text() -> Result<()> {
    let ns = Namespace::meshed("plan")?;
    let outside = Namespace::plain("legacy")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    Echo::new("batch").deploy(&outside)?;
    // Every workload is called: a plan is not certain about one that nothing calls.
    for (from, to) in [("client", "server"), ("server", "client")] {
        let load = Load::from(&ns.kubectl, from).flag("-n=50");
        load.run(&format!("http://{to}/"))?;
    }
    planned(&ns, "a plan that refuses nobody", 0, &|plan| {
        plan["callers"].as_array().is_some_and(Vec::is_empty)
    })?;
    let url = format!("http://server.{}/", ns.name);
    let load = Load::from(&outside.kubectl, "batch").flag("-n=20");
    load.run(&url)?;
    let server = format!("{}/server", ns.name);
    let batch = format!("{}/batch", outside.name);
    planned(&ns, "a plan with the caller in plain text", 2, &|plan| {
        let caller = &plan["callers"][0];
        let bare = plan["withoutSidecar"].as_array().into_iter().flatten();
        caller["workload"] == server.as_str()
            && caller["underStrict"] == "refused"
            && caller["count"] == 20
            && caller["lastSecondsAgo"].is_u64()
            && bare.into_iter().any(|of| of["workload"] == batch.as_str())
    })
}

/// A flip that is forced cuts off the caller that it names, and no request of a caller with a sidecar.
pub fn a_flip_is_refused_for_a_caller_in_plain_text_and_loses_no_other() -> Result<()> {
    let ns = Namespace::meshed("strict")?;
    let outside = Namespace::plain("older")?;
    for app in ["server", "client"] {
        Echo::new(app).deploy(&ns)?;
    }
    Echo::new("batch").deploy(&outside)?;
    let url = format!("http://server.{}/", ns.name);
    let batch = || {
        Load::from(&outside.kubectl, "batch")
            .flag("-n=20")
            .run(&url)
    };
    assert_eq!(batch()?.status("200"), 20);
    let server = format!("of {}/server port", ns.name);
    let strict = |more: &[&str]| -> Result<(Option<i32>, Value)> {
        let all = [&["mtls", "strict", &ns.name, "-o", "json"], more].concat();
        let output = run_heddle(&all)?;
        let flip = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok((output.status.code(), flip))
    };
    eventually("a refusal that names the server", PATIENCE, || {
        let (code, flip) = strict(&[])?;
        let mut reasons = flip["reasons"].as_array().into_iter().flatten();
        let named = reasons.any(|of| of.as_str().is_some_and(|text| text.contains(&server)));
        Ok((code == Some(2) && flip["outcome"] == "refused" && named).then_some(()))
    })?;
    assert_eq!(batch()?.status("200"), 20, "nothing was changed");
    let load = Load::from(&ns.kubectl, "client").flag("-n=2000");
    let running = load.start("http://server/")?;
    let (code, flip) = strict(&["--force"])?;
    assert_eq!(
        (code, &flip["outcome"]),
        (Some(0), &"inForce".into()),
        "{flip}"
    );
    assert_eq!(running.report()?.status("200"), 2000);
    assert_eq!(batch()?.status("200"), 0, "it is cut off");
    let (code, again) = strict(&["--force", "--dry-run"])?;
    assert_eq!(
        (code, &again["changed"]),
        (Some(0), &false.into()),
        "{again}"
    );
    Ok(())
}

/// The archive has the objects, logs and metrics of a real cluster, and neither a planted secret nor the key of the root.
pub fn a_bug_report_has_all_parts_and_no_secret() -> Result<()> {
    let ns = Namespace::meshed("report")?;
    Echo::new("server").deploy(&ns)?;
    ns.kubectl.apply(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {a: planted-in-a-secret}\n---\n\
         apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\n\
         metadata: {name: header, annotations: {example.com/a: planted-in-an-annotation}}\nspec:\n  \
         selector: {matchLabels: {app: server}}\n  \
         rules: [{to: {headers: [{name: authorization, exact: planted-in-a-header}]}}]\n",
    )?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("report.tar.gz");
    let name = file.display().to_string();
    heddle(&["bugreport", "--to", &name])?;
    let output = Command::new("tar").args(["-xzO", "-f", &name]).output()?;
    let all = String::from_utf8_lossy(&output.stdout);
    for secret in ["planted", "PRIVATE KEY", "LS0tLS1CRUdJTi"] {
        assert!(!all.contains(secret), "{secret} is in the report");
    }
    for part in [
        &*format!("\"namespace\": \"{}\"", ns.name),
        "issued a certificate",
        "heddle_sidecars",
        "\"windowSeconds\":900",
        "objects/authpolicies.json",
    ] {
        assert!(all.contains(part), "no {part} in the report");
    }
    let manifest = all.rfind("{\n  \"bounds\"").map(|at| &all[at..]);
    let manifest: Value = serde_json::from_str(manifest.unwrap_or_default())?;
    assert_eq!(manifest["missing"], serde_json::json!([]), "{manifest}");
    Ok(())
}

/// A description has the parts of the compile, of the sidecars and of the traffic.
pub fn describe_names_rules_sidecars_and_traffic() -> Result<()> {
    let ns = Namespace::meshed("describe")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    ns.kubectl.apply(
        "apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: server}\nspec:\n  \
         selector: {matchLabels: {app: server}}\n  rules: [{to: {methods: [GET]}}]\n",
    )?;
    ns.kubectl
        .wait("condition=Programmed", "authpolicy/server")?;
    let load = Load::from(&ns.kubectl, "client").flag("-n=50");
    load.run("http://server/")?;
    let name = format!("{}/server", ns.name);
    let client = format!("/ns/{}/sa/client", ns.name);
    eventually("a description with traffic", PATIENCE, || {
        let text = heddle(&["describe", "workload", &name, "-o", "json"])?;
        let workload: Value = serde_json::from_str(&text)?;
        let seen = &workload["callersSeen"][0]["from"];
        let there = seen.as_str().is_some_and(|from| from.ends_with(&client))
            && workload["pods"][0]["sidecar"] == "in sync"
            && workload["policies"][0] == format!("AuthPolicy {name}").as_str();
        Ok(there.then_some(()))
    })?;
    let policy = heddle(&["describe", "policy", &name])?;
    assert!(policy.contains("Programmed    True"), "{policy}");
    assert!(policy.contains(&format!("workloads  {name}")), "{policy}");
    let service = heddle(&["describe", "service", &name])?;
    assert!(service.contains("whole service"), "{service}");
    Ok(())
}

/// The requests of sidecars are there, also on a cluster without the metrics API.
pub fn cost_has_the_requests_of_sidecars() -> Result<()> {
    let ns = Namespace::meshed("cost")?;
    Echo::new("server").replicas(2).deploy(&ns)?;
    let text = heddle(&["cost", "-n", &ns.name, "-o", "json"])?;
    let report: Value = serde_json::from_str(&text)?;
    let server = &report["workloads"][0];
    assert_eq!(server["workload"], format!("{}/server", ns.name), "{text}");
    assert_eq!(server["sidecars"], 2, "{text}");
    assert!(
        server["requests"]["memoryBytes"].as_u64() > Some(0),
        "{text}"
    );
    Ok(())
}

/// A bypass ends the enforcement of an AuthPolicy once every sidecar has acknowledged the bypass, and the status reports that; `--off`
/// restores it.
pub fn a_bypassed_namespace_enforces_nothing_and_says_so() -> Result<()> {
    let ns = Namespace::meshed("bypass")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    ns.kubectl.apply(
        "apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: closed}\nspec:\n  \
         selector: {matchLabels: {app: server}}\n  rules: [{action: Deny}]\n",
    )?;
    let statuses = |expected: &str| -> Result<()> {
        let load = Load::from(&ns.kubectl, "client").flag("-n=20");
        let report = load.run("http://server/")?;
        assert_eq!(report.status(expected), 20, "{report:?}");
        Ok(())
    };
    let enforced = |expected: &str| {
        eventually("the status of the policy", PATIENCE, || {
            let condition = ns.kubectl.condition("authpolicy/closed", "Enforced")?;
            let holds = condition.is_some_and(|(status, reason, _)| match expected {
                "True" => status == "True",
                _ => status == "False" && reason == "Bypassed",
            });
            Ok(holds.then_some(()))
        })
    };
    enforced("True")?;
    statuses("403")?;
    let bypass = |more: &[&str]| {
        let all = [&["mesh", "bypass", &ns.name, "-o", "json"], more].concat();
        let output = run_heddle(&all)?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        Ok(serde_json::from_slice::<Value>(&output.stdout)?)
    };
    let begin = bypass(&[])?;
    assert_eq!(begin["bypassed"], true, "{begin}");
    assert_eq!(begin["acknowledged"], 2, "{begin}");
    statuses("200")?;
    enforced("Bypassed")?;
    let end = bypass(&["--off"])?;
    assert_eq!(end["bypassed"], false, "{end}");
    statuses("403")?;
    enforced("True")
}
