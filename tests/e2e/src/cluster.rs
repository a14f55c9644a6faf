//! Calls to the cluster under test, and a namespace that ends with its test.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Runs `kubectl` (or the command in `KUBECTL`, arguments included) against the cluster of `KUBECONFIG`.
#[derive(Clone, Debug, Default)]
pub struct Kubectl {
    namespace: Option<String>,
}

impl Kubectl {
    /// Commands without a namespace of their own.
    pub fn cluster() -> Self {
        Self::default()
    }

    /// The command, ready to be run or spawned.
    pub fn command(&self, args: &[&str]) -> Command {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut words = program.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or("kubectl"));
        command.args(words).arg("--request-timeout=120s");
        if let Some(namespace) = &self.namespace {
            command.args(["-n", namespace]);
        }
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Standard output of a command that must succeed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        if !output.status.success() {
            bail!(
                "kubectl {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Output of a command that may fail.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        self.command(args)
            .output()
            .with_context(|| format!("kubectl {args:?}"))
    }

    /// An object, as JSON.
    pub fn get(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.run(&["get", what, "-o", "json"])?,
        )?)
    }

    /// Applies manifests; a refusal of the API server is the error's text.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.send(&["apply", "-f", "-"], yaml)
    }

    /// Puts an object in the place of the one of its name, with fewer fields if need be.
    pub fn replace(&self, yaml: &str) -> Result<String> {
        self.send(&["replace", "-f", "-"], yaml)
    }

    /// Applies the definition of a kind of Gateway API as its types have it, but for the name of its version, and waits for it.
    pub fn define(&self, mut definition: Value, version: &str) -> Result<()> {
        // Groups of Kubernetes are protected: a definition has to say that it is not the approved one.
        let metadata = definition.pointer_mut("/metadata");
        let metadata = metadata.and_then(Value::as_object_mut);
        metadata.context("a definition has metadata")?.insert(
            "annotations".to_owned(),
            json!({"api-approved.kubernetes.io": "unapproved, for tests"}),
        );
        let first = definition.pointer_mut("/spec/versions/0/name");
        *first.context("a definition has a version")? = version.into();
        self.apply(&definition.to_string())?;
        let name = definition.pointer("/metadata/name").and_then(Value::as_str);
        let name = name.context("a definition has a name")?;
        self.wait("condition=Established", &format!("crd/{name}"))
    }

    /// Asks for the eviction of a pod, as `kubectl drain` does; a budget that forbids it now is an error.
    pub fn evict(&self, pod: &str) -> Result<()> {
        let namespace = self.namespace.as_deref().unwrap_or("default");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}});
        self.send(
            &["create", "--raw", &path, "-f", "-"],
            &eviction.to_string(),
        )
        .map(drop)
    }

    /// Standard output of a command that reads this text, and must succeed.
    fn send(&self, args: &[&str], text: &str) -> Result<String> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("kubectl's standard input")?
            .write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits for a condition, for two minutes at most.
    pub fn wait(&self, condition: &str, what: &str) -> Result<()> {
        self.run(&[
            "wait",
            &format!("--for={condition}"),
            what,
            "--timeout=120s",
        ])
        .map(drop)
    }

    /// Waits until the sidecars that use an object of ours have its present generation.
    pub fn programmed(&self, object: &str) -> Result<()> {
        eventually("the status of the spec", Duration::from_secs(60), || {
            let object = self.get(object)?;
            let observed = object.pointer("/status/observedGeneration");
            let is = observed.is_some() && observed == object.pointer("/metadata/generation");
            Ok(is.then_some(()))
        })?;
        self.wait("condition=Programmed", object)
    }

    /// One condition of an object: its status, reason and message.
    pub fn condition(&self, what: &str, kind: &str) -> Result<Option<(String, String, String)>> {
        let object = self.get(what)?;
        let text = |c: &Value, key: &str| {
            c.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let conditions = object
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let found = conditions
            .iter()
            .find(|c| c.get("type").and_then(Value::as_str) == Some(kind));
        Ok(found.map(|c| (text(c, "status"), text(c, "reason"), text(c, "message"))))
    }

    /// Names of the pods that a label selector finds.
    pub fn pods(&self, selector: &str) -> Result<Vec<String>> {
        let names = self.run(&[
            "get",
            "pods",
            "-l",
            selector,
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ])?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// Runs a command in a deployment's or pod's container.
    pub fn exec(&self, target: &str, container: &str, command: &[&str]) -> Result<String> {
        let mut args = vec!["exec", target, "-c", container, "--"];
        args.extend(command);
        self.run(&args)
    }
}

/// A namespace of the test's own, deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// `kubectl` in it.
    pub kubectl: Kubectl,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Namespace {
    /// A namespace with injection: its pods get sidecars.
    pub fn meshed(test: &str) -> Result<Self> {
        Self::labelled(test, "{heddle.dev/inject: enabled}")
    }

    /// A namespace that the mesh has nothing to do with.
    pub fn plain(test: &str) -> Result<Self> {
        Self::labelled(test, "{}")
    }

    /// The name and the address of the first pod of an application.
    ///
    /// # Errors
    /// It has no pod.
    pub fn pod(&self, app: &str) -> Result<(String, String)> {
        let label = format!("app={app}");
        let fields = "jsonpath={.items[0].metadata.name} {.items[0].status.podIP}";
        let text = self
            .kubectl
            .run(&["get", "pods", "-l", &label, "-o", fields])?;
        let pair = text.trim().split_once(' ');
        let (name, ip) = pair.with_context(|| format!("{app} has no pod: {text}"))?;
        Ok((name.to_owned(), ip.to_owned()))
    }

    /// Applies an object of ours, and waits until the sidecars that need it have it.
    pub fn put(&self, kind: &str, name: &str, spec: &str) -> Result<()> {
        self.kubectl.apply(&format!(
            "{{apiVersion: heddle.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
        ))?;
        self.kubectl.programmed(&format!("{kind}/{name}"))
    }

    fn labelled(test: &str, labels: &str) -> Result<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{test}-{}-{serial}", std::process::id());
        let cluster = Kubectl::cluster();
        cluster.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {labels}}}}}"
        ))?;
        let kubectl = Kubectl {
            namespace: Some(name.clone()),
        };
        // Pods are refused until the controller manager has made the account they run as.
        eventually(
            "the default service account",
            Duration::from_secs(30),
            || {
                Ok(kubectl
                    .output(&["get", "serviceaccount", "default"])?
                    .status
                    .success()
                    .then_some(()))
            },
        )?;
        Ok(Self { name, kubectl })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::env::var_os("HEDDLE_E2E_KEEP").is_some() {
            return;
        }
        let _ = Kubectl::cluster().output(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// Asks again until there is an answer; the error names the expected state.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = None;
    loop {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        if Instant::now() > deadline {
            bail!("waited {within:?} for {what}; last error: {last:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
