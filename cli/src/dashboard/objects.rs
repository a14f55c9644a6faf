//! The sidecars, certificates, objects with their conditions, findings and descriptions, as the page shows them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use heddle_identity::dates_of;
use heddle_policy_compiler::{ObjectKind, ObjectRef};
use heddle_xds_types::CertificateTimes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use super::access::{self, Access};
use super::routes;
use crate::cluster::{self, ClusterArgs};
use crate::describe::{self, look::Look};
use crate::edges::graph::Graph;
use crate::edges::live::Source;
use crate::flows::Flows;
use crate::proxy::{self, SyncSummary as _};
use crate::replicas;
use crate::sources::{Objects, Outcome};

/// A compile reads all objects of the cluster, so its result is kept for so long.
const KEPT: Duration = Duration::from_secs(60);
/// The same for files.
const KEPT_FILES: Duration = Duration::from_secs(5);
/// The traffic of a description, in seconds.
const DESCRIBED: u64 = 60;

/// The content of the page beside the traffic.
#[derive(Debug, Default, Serialize)]
pub struct Page {
    proxies: Vec<Proxy>,
    roots: Vec<Root>,
    objects: Vec<Object>,
    findings: Vec<Finding>,
    /// Whether rules and callers can be described, for the objects are known.
    described: bool,
}

/// A root certificate of the mesh. Times are in seconds since 1970.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    fingerprint: String,
    not_before: i64,
    not_after: i64,
}

/// A sidecar.
#[derive(Debug, Serialize)]
struct Proxy {
    proxy: String,
    replica: String,
    /// Whether it runs all that it should.
    well: bool,
    /// The same in words.
    state: String,
    identity: String,
    resources: usize,
    version: String,
    certificate: Option<CertificateTimes>,
    /// `None`: not known.
    workload: Option<String>,
}

/// A declared object.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Object {
    kind: String,
    namespace: String,
    name: String,
    /// The weights of a split that sidecars run.
    weights: String,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    good: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Finding {
    severity: String,
    object: String,
    field: String,
    message: String,
    fix: String,
}

/// All objects with their compile.
#[derive(Clone)]
struct Compile {
    outcome: Arc<Outcome>,
    statuses: Arc<[(ObjectRef, Value)]>,
}

impl Compile {
    fn look(self) -> Look {
        Look {
            outcome: self.outcome,
            statuses: self.statuses,
            flows: None,
            proxies: None,
            notes: Vec::new(),
        }
    }
}

/// Reads the content.
pub struct Reader {
    source: Source,
    /// The objects of a standalone control plane.
    paths: Vec<PathBuf>,
    kept: Mutex<Option<(Instant, Compile)>>,
}

impl Reader {
    /// From a cluster, or from a runtime folder and the files that its control plane reads.
    pub fn new(source: Source, paths: Vec<PathBuf>) -> Self {
        Self {
            source,
            paths,
            kept: Mutex::default(),
        }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// When the API server or a file cannot be read. A replica that cannot be asked is missing.
    pub async fn read(&self) -> Result<Page> {
        let described = self.is_described();
        let mut proxies = proxies(&self.source).await?;
        if described {
            let compile = self.compile().await?;
            let known = compile.outcome.compiled.proxies.values();
            let workloads = known.map(|of| (of.pod.to_string(), of.workload().to_string()));
            let workloads: BTreeMap<String, String> = workloads.collect();
            for proxy in &mut proxies {
                proxy.workload = workloads.get(&proxy.proxy).cloned();
            }
        }
        let (objects, findings) = match &self.source {
            Source::Standalone(folder) => standalone(folder).await?,
            Source::Cluster(args) => (declared(args).await?, self.findings().await?),
        };
        Ok(Page {
            proxies,
            roots: roots(&self.source).await?,
            objects,
            findings,
            described,
        })
    }

    /// Reads the traffic of the last seconds.
    ///
    /// # Errors
    /// When the replicas cannot be listed, none is running, or the file of a standalone control plane cannot be read.
    pub async fn traffic(&self, window: u64) -> Result<Graph> {
        let mut graph = self.source.read(window).await?;
        // The page takes them from the descriptions.
        graph.callers.clear();
        Ok(graph)
    }

    /// Decides about the callers of the last seconds.
    ///
    /// # Errors
    /// When the replicas, the API server or a file cannot be read.
    pub async fn access(&self, window: u64) -> Result<Access> {
        let graph = self.source.read(window).await?;
        Ok(access::of(&graph, &self.compile().await?.outcome))
    }

    /// Describes a workload, service or policy.
    ///
    /// # Errors
    /// When the mesh has no such thing, or the replicas, the API server or a file cannot be read.
    pub async fn describe(&self, subject: &str, name: &str) -> Result<Value> {
        let compile = self.compile().await?;
        let graph = self.source.read(DESCRIBED).await?;
        let proxies = proxy::report(&self.source).await?.proxies.into_iter();
        let look = Look {
            flows: Some(Flows::of(&graph)),
            proxies: Some(proxies.map(|placed| placed.state).collect()),
            ..compile.look()
        };
        describe::document(&look, subject, name)
    }

    /// Describes the rules of services for which objects decide.
    ///
    /// # Errors
    /// When the API server or a file cannot be read.
    pub async fn routes(&self) -> Result<Vec<Value>> {
        routes::of(&self.compile().await?.look())
    }

    fn is_described(&self) -> bool {
        matches!(self.source, Source::Cluster(_)) || !self.paths.is_empty()
    }

    async fn compile(&self) -> Result<Compile> {
        let mut kept = self.kept.lock().await;
        let longest = if self.paths.is_empty() {
            KEPT
        } else {
            KEPT_FILES
        };
        if let Some((since, compile)) = &*kept
            && since.elapsed() < longest
        {
            return Ok(compile.clone());
        }
        let objects = match &self.source {
            Source::Cluster(args) => Objects::from_cluster(&args.client().await?).await?,
            Source::Standalone(_) if self.paths.is_empty() => bail!(
                "the objects of this control plane are not known; start `heddle dashboard` with -f and the folder that it reads"
            ),
            Source::Standalone(_) => Objects::from_paths(&self.paths)?,
        };
        let look = Look::of(objects);
        let compile = Compile {
            outcome: look.outcome,
            statuses: look.statuses,
        };
        *kept = Some((Instant::now(), compile.clone()));
        Ok(compile)
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        let compile = self.compile().await?;
        let found = compile.outcome.findings.iter().map(|finding| Finding {
            severity: finding.severity.as_str().to_owned(),
            object: finding.object.to_string(),
            field: finding.field.clone(),
            message: finding.message.clone(),
            fix: finding.fix.clone(),
        });
        Ok(found.collect())
    }
}

async fn proxies(source: &Source) -> Result<Vec<Proxy>> {
    let report = proxy::report(source).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let proxies = report.proxies.iter().map(|placed| {
        let state = &placed.state;
        Proxy {
            proxy: state.proxy.clone(),
            replica: placed.replica.clone().unwrap_or_else(|| "-".to_owned()),
            well: state.is_well(),
            state: report.summary(placed, now),
            identity: state.identity.clone(),
            resources: state.resources,
            version: state.version.clone(),
            certificate: state.certificate,
            workload: None,
        }
    });
    Ok(proxies.collect())
}

/// The roots that sidecars of the mesh trust.
async fn roots(source: &Source) -> Result<Vec<Root>> {
    let bundle = match source {
        Source::Cluster(args) => replicas::roots(&args.client().await?).await?,
        // A control plane that has just started has none yet.
        Source::Standalone(folder) => tokio::fs::read(folder.join("trust-bundle.pem"))
            .await
            .unwrap_or_default(),
    };
    let roots = dates_of(&bundle).into_iter().map(|root| Root {
        fingerprint: root.fingerprint,
        not_before: root.not_before,
        not_after: root.not_after,
    });
    Ok(roots.collect())
}

async fn declared(args: &ClusterArgs) -> Result<Vec<Object>> {
    let client = args.client().await?;
    let mut all = Vec::new();
    for (kind, resource) in ObjectKind::watched().filter(|(kind, _)| kind.is_declared()) {
        for object in cluster::list_all(&client, kind, &resource).await? {
            all.push(Object::of(&serde_json::to_value(object)?));
        }
    }
    Ok(all)
}

/// `status.yaml` has the objects and findings.
async fn standalone(folder: &Path) -> Result<(Vec<Object>, Vec<Finding>)> {
    #[derive(Deserialize)]
    struct Statuses {
        items: Vec<Value>,
        findings: Vec<Finding>,
    }
    let path = folder.join("status.yaml");
    let text = tokio::fs::read_to_string(&path).await;
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let statuses: Statuses = serde_saphyr::from_str(&text)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let objects = statuses.items.iter().map(Object::of);
    Ok((objects.collect(), statuses.findings))
}

impl Object {
    /// Reads an object as the API server has it. A missing field is empty.
    fn of(object: &Value) -> Self {
        let text = |pointer: &str| {
            let value = object.pointer(pointer).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let all = |value: &Value, pointer: &str| -> Vec<Value> {
            let list = value.pointer(pointer).and_then(Value::as_array);
            list.cloned().unwrap_or_default()
        };
        let mut conditions = all(object, "/status/conditions");
        for list in ["/status/parents", "/status/ancestors"] {
            let entries = all(object, list).into_iter();
            conditions.extend(entries.flat_map(|of| all(&of, "/conditions")));
        }
        Self {
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            weights: text("/status/weightsInForce"),
            conditions: conditions.iter().filter_map(Condition::of).collect(),
        }
    }
}

impl Condition {
    fn of(value: &Value) -> Option<Self> {
        let mut condition = Self::deserialize(value).ok()?;
        // `True` is good news of every type but these; that a policy is only audited was asked for.
        let wanted = match condition.kind.as_str() {
            "Conflicted" | "PartiallyInvalid" | "WeightsHeld" => "False",
            _ => "True",
        };
        condition.good = condition.status == wanted || condition.reason == "Audit";
        Some(condition)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_of_objects_and_of_their_parents_are_read() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m"});
        let split = Object::of(&json!({
            "kind": "TrafficSplit",
            "metadata": {"namespace": "shop", "name": "reviews"},
            "status": {"weightsInForce": "95/5", "conditions": [condition("Programmed", "False"), condition("Conflicted", "False")]},
        }));
        assert_eq!((&*split.namespace, &*split.weights), ("shop", "95/5"));
        let good: Vec<bool> = split.conditions.iter().map(|one| one.good).collect();
        assert_eq!(good, [false, true]);
        let route = Object::of(
            &json!({"status": {"parents": [{"conditions": [condition("Accepted", "True")]}, {}]}}),
        );
        assert_eq!(route.conditions.len(), 1);
        let policy =
            json!({"status": {"ancestors": [{"conditions": [condition("Accepted", "True")]}]}});
        assert_eq!(Object::of(&policy).conditions.len(), 1);
        assert_eq!(Object::of(&json!({})), Object::default());
    }

    #[tokio::test]
    async fn a_standalone_control_plane_is_read_from_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "proxies.json",
            r#"[{"proxy": "shop/cart-1", "connected": true, "resources": 4}]"#,
        );
        write(
            "status.yaml",
            "items: [{kind: Mesh, metadata: {name: default}}]\nfindings: [{severity: error, object: x, code: Y}]\n",
        );
        let page = Reader::new(Source::Standalone(folder.path().into()), Vec::new())
            .read()
            .await
            .unwrap();
        assert_eq!(
            (&*page.proxies[0].state, page.proxies[0].well),
            ("in sync", true)
        );
        assert_eq!(
            (&*page.objects[0].kind, &*page.findings[0].severity),
            ("Mesh", "error")
        );
    }
}
