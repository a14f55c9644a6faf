//! The state that is described: objects, their compile, sidecars and flows.

use std::sync::Arc;

use anyhow::Result;
use heddle_policy_compiler::{KubeObject, NamespacedName, ObjectRef};
use heddle_xds_types::ProxyState;
use serde_json::{Value, json};

use super::DescribeArgs;
use crate::cluster::explain;
use crate::flows::{self, Flow, Flows};
use crate::sources::{Objects, Outcome};
use crate::{findings, proxy};

/// One look at a mesh.
pub struct Look {
    /// The compile.
    pub outcome: Arc<Outcome>,
    /// The statuses that declared objects have on the cluster.
    pub statuses: Arc<[(ObjectRef, Value)]>,
    /// The flows. `None`: not known.
    pub flows: Option<Flows>,
    /// The sidecars. `None`: not known.
    pub proxies: Option<Vec<ProxyState>>,
    /// Parts that are not known, with the reason.
    pub notes: Vec<String>,
}

impl Look {
    /// Reads files, or the cluster. Without the rights for flows and sidecars the rest is described.
    ///
    /// # Errors
    /// The objects or the file of flows cannot be read.
    pub async fn read(args: &DescribeArgs) -> Result<Self> {
        let mut look = Self::of(Objects::from(&args.paths, &args.cluster).await?);
        if let Some(path) = &args.edges {
            look.flows = Some(Flows::read(path)?);
        }
        if args.paths.is_empty() {
            look.live(args).await;
        }
        Ok(look)
    }

    /// The objects and their compile alone.
    pub fn of(objects: Objects) -> Self {
        let statuses = objects.all().iter().filter_map(|object| match object {
            KubeObject::Declared(declared) => {
                Some((declared.object.clone(), declared.status.clone()))
            }
            KubeObject::Namespace(_)
            | KubeObject::Service(_)
            | KubeObject::EndpointSlice(_)
            | KubeObject::Pod(_)
            | KubeObject::Template(_) => None,
        });
        Self {
            statuses: statuses.collect(),
            outcome: Arc::new(objects.compile()),
            flows: None,
            proxies: None,
            notes: Vec::new(),
        }
    }

    async fn live(&mut self, args: &DescribeArgs) {
        if self.flows.is_none() {
            match flows::observed(&args.cluster).await {
                Ok(flows) => self.flows = Some(flows),
                Err(error) => self.notes.push(format!("no traffic: {}", explain(&error))),
            }
        }
        match proxy::states(&args.cluster).await {
            Ok((states, complete)) => {
                self.proxies = Some(states);
                if !complete {
                    let note = "the states of sidecars are partial: a replica could not be asked";
                    self.notes.push(note.to_owned());
                }
            }
            Err(error) => {
                let note = format!("no states of sidecars: {}", explain(&error));
                self.notes.push(note);
            }
        }
    }

    /// The findings about objects.
    pub fn findings(&self, about: &[&ObjectRef]) -> Vec<String> {
        let all = self.outcome.findings.iter();
        let all = all.filter(|finding| about.contains(&&finding.object));
        all.map(findings::line).collect()
    }

    /// The flows from a workload, or to a service or workload.
    pub fn flows(&self, wanted: impl Fn(&Flow) -> bool) -> Vec<Value> {
        let all = self.flows.iter().flat_map(|flows| &flows.all);
        let rows = all.filter(|flow| wanted(flow)).map(|flow| {
            json!({
                "from": end(&flow.source, &flow.identity),
                "to": end(&flow.destination, "-"),
                "backend": flow.backend.as_ref().map(|of| end(of, "-")),
                "perSecond": flow.rate(),
            })
        });
        rows.collect()
    }
}

/// Whether an end of a flow has a name.
pub fn is(end: &flows::End, name: &NamespacedName) -> bool {
    end.namespace == *name.namespace && end.name == *name.name
}

fn end(end: &flows::End, otherwise: &str) -> String {
    match (&*end.namespace, &*end.name) {
        ("", "") if otherwise.is_empty() => "plain text".to_owned(),
        ("", "") => otherwise.to_owned(),
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}
