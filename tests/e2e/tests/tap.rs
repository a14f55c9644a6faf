//! The rights that the control plane asks of a caller on a cluster, and the secrets that `heddle tap` does not show.
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests may panic"
)]

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heddle_e2e::{Echo, Kubectl, Load, Namespace, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
const SECRET: &str = "planted-secret";
const CONTROL_PLANE: &str = "heddle-system";
/// The role that reads the API of the control plane.
const READER: &str = "heddle-proxy-reader";
/// The role of `heddle tap`.
const TAP: &str = "heddle-tap";

/// A user that reaches the control plane, and may do nothing else: an account of a namespace, by its token.
struct User {
    name: String,
    kubeconfig: tempfile::NamedTempFile,
}

impl User {
    fn new(ns: &Namespace) -> Result<Self> {
        let (namespace, cluster) = (&ns.name, Kubectl::cluster());
        let name = format!("tap-{namespace}");
        cluster.apply(&format!(
            "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: oncall, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {name}, namespace: {CONTROL_PLANE}}}
rules:
- {{apiGroups: [\"\"], resources: [pods], verbs: [get, list]}}
- {{apiGroups: [\"\"], resources: [pods/portforward], verbs: [get, create]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}, namespace: {CONTROL_PLANE}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}
subjects: [{{kind: ServiceAccount, name: oncall, namespace: {namespace}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {name}}}
rules: [{{apiGroups: [admissionregistration.k8s.io], resources: [mutatingwebhookconfigurations], resourceNames: [heddle-injector], verbs: [get]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects: [{{kind: ServiceAccount, name: oncall, namespace: {namespace}}}]
"
        ))?;
        let kubeconfig = tempfile::NamedTempFile::new()?;
        let user = Self { name, kubeconfig };
        let token = ns.kubectl.run(&["create", "token", "oncall"])?;
        let config = cluster.run(&["config", "view", "--raw", "--minify", "-o", "json"])?;
        let mut config: Value = serde_json::from_str(&config)?;
        for of in config["users"].as_array_mut().context("no users")? {
            of["user"] = json!({"token": token.trim()});
        }
        std::fs::write(user.kubeconfig.path(), config.to_string())?;
        Ok(user)
    }

    /// Lets the user read the API of the control plane.
    fn read_the_control_plane(&self, ns: &Namespace) -> Result<()> {
        let (name, account) = (self.reading(), &ns.name);
        let role = format!("--clusterrole={READER}");
        let account = format!("--serviceaccount={account}:oncall");
        let args = ["create", "clusterrolebinding", &name, &role, &account];
        Kubectl::cluster().run(&args)?;
        Ok(())
    }

    /// The name of the binding that lets the user read.
    fn reading(&self) -> String {
        format!("{}-reads", self.name)
    }

    /// Runs a command of `heddle` as the user.
    fn heddle(&self, args: &[&str]) -> Result<Output> {
        let program = std::env::var("HEDDLE").context("HEDDLE names the command")?;
        let mut command = Command::new(program);
        command.args(args).env("KUBECONFIG", self.kubeconfig.path());
        Ok(command.output()?)
    }

    /// Runs `heddle tap` as the user.
    fn tap(&self, args: &[&str]) -> Result<Output> {
        let words: Vec<&str> = ["tap"].iter().chain(args).copied().collect();
        self.heddle(&words)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let (cluster, reading) = (Kubectl::cluster(), self.reading());
        for (kind, name, namespaced) in [
            ("rolebinding", &self.name, true),
            ("role", &self.name, true),
            ("clusterrolebinding", &self.name, false),
            ("clusterrolebinding", &reading, false),
            ("clusterrole", &self.name, false),
        ] {
            let mut args = vec!["delete", kind, name, "--ignore-not-found"];
            if namespaced {
                args.extend(["-n", CONTROL_PLANE]);
            }
            let _ = cluster.output(&args);
        }
    }
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Whether the user is refused for want of the right that a role holds.
fn is_refused(output: &Output, role: &str) -> bool {
    output.status.code() == Some(1) && text(output).contains(&format!("ClusterRole {role}"))
}

/// Kubernetes lets every account read some paths of the API server, which are none of these.
#[test]
fn an_account_without_a_right_reads_nothing_of_the_control_plane() -> Result<()> {
    let ns = Namespace::meshed("rights")?;
    let user = User::new(&ns)?;
    let commands: [&[&str]; 3] = [
        &["edges", "-o", "json"],
        &["top", "-o", "json"],
        &["proxy", "status", "-o", "json"],
    ];
    for command in commands {
        let output = user.heddle(command)?;
        ensure!(
            is_refused(&output, READER),
            "{command:?}: {}",
            text(&output)
        );
    }
    user.read_the_control_plane(&ns)?;
    // The control plane keeps the answer of the API server for a while.
    for command in commands {
        eventually("an answer to the account", PATIENCE, || {
            let output = user.heddle(command)?;
            Ok((!is_refused(&output, READER)).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_tap_takes_its_right_and_shows_no_secret() -> Result<()> {
    let (ns, other) = (Namespace::meshed("tap")?, Namespace::meshed("tap-other")?);
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    let user = User::new(&ns)?;
    let target = format!("{}/server", ns.name);
    let refused = user.tap(&[&target, "--timeout", "5"])?;
    ensure!(is_refused(&refused, TAP), "{}", text(&refused));

    let account = format!("{}:oncall", ns.name);
    let account = format!("--serviceaccount={account}");
    ns.kubectl.run(&[
        "create",
        "rolebinding",
        "tap",
        &format!("--clusterrole={TAP}"),
        &account,
    ])?;
    let url = format!("http://server/items?id=7&token={SECRET}");
    let args = [
        &*target,
        "--max",
        "1",
        "--timeout",
        "10",
        "--query",
        "--header",
        "user-agent",
        "-o",
        "json",
    ];
    // The control plane keeps the answer of the API server for a while.
    let seen = eventually("a request in the tap", PATIENCE, || {
        let load = Load::from(&ns.kubectl, "client")
            .flag("-n=1500")
            .flag("-qps=100")
            .flag(&format!("-H=authorization: Bearer {SECRET}"))
            .flag(&format!("-H=cookie: session={SECRET}"))
            .start(&url)?;
        let output = user.tap(&args)?;
        load.report()?;
        let all = text(&output);
        ensure!(!all.contains(SECRET), "a secret: {all}");
        let line = String::from_utf8_lossy(&output.stdout);
        let row = line.lines().find(|line| line.starts_with('{'));
        Ok(row.map(str::to_owned))
    })?;
    let row: Value = serde_json::from_str(&seen)?;
    ensure!(seen.contains("/items?id=7&token=[redacted]"), "{row:#}");
    ensure!(
        seen.contains(&format!("/ns/{}/sa/client", ns.name)),
        "{row:#}"
    );

    // The right is of one namespace, and some headers are never shown.
    let elsewhere = user.tap(&[&other.name, "--timeout", "5"])?;
    ensure!(is_refused(&elsewhere, TAP), "{}", text(&elsewhere));
    let header = user.tap(&[&target, "--timeout", "5", "--header", "authorization"])?;
    ensure!(header.status.code() == Some(1), "{}", text(&header));
    Ok(())
}
