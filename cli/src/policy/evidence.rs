//! The callers that servers have reported, and the ports that they called. A report of a caller is a claim: it can only choose among the
//! ports of a service that the server has reported with that caller.

use std::collections::{BTreeMap, BTreeSet};

use heddle_acceptor::clean;
use heddle_policy_compiler::authz::{Admitted, Asked, Operation, admitted};
use heddle_policy_compiler::world::{Port, SpiffeId, World};
use heddle_policy_compiler::{Compiled, NamespacedName};
use heddle_xds_types::edges::Reporter;

use crate::decisions::reads;
use crate::flows::{Behind, Caller, Flow, Flows};

/// The longest line, in characters.
const MAX_LINE: usize = 300;

/// A caller to allow.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// The ports of the workload.
    pub ports: BTreeSet<Port>,
    /// Those of them that the caller has chosen among several ports of a service.
    pub chosen: BTreeSet<Port>,
    /// Requests and connections in the window.
    pub count: u64,
}

/// The calls to the workloads of a namespace.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The callers to allow, by workload.
    pub allowed: BTreeMap<NamespacedName, BTreeMap<SpiffeId, Allowed>>,
    /// The calls that are not evidence, by workload, with the reason.
    pub doubtful: BTreeMap<NamespacedName, Vec<String>>,
    /// The calls that lead to no workload.
    pub nowhere: Vec<String>,
}

/// The inputs.
struct Look<'a> {
    world: &'a World,
    compiled: &'a Compiled,
    flows: &'a Flows,
    behind: Behind,
}

impl Evidence {
    /// Looks at the calls to a namespace. `callers` is from the reports of servers, `flows` also from those of callers.
    pub fn of(
        world: &World,
        compiled: &Compiled,
        (flows, callers): (&Flows, &[Caller]),
        namespace: &str,
    ) -> Self {
        let behind = Behind::of(world);
        let look = Look {
            world,
            compiled,
            flows,
            behind,
        };
        let mut evidence = Self::default();
        let mut reports = BTreeMap::<(NamespacedName, &str), Vec<&Caller>>::new();
        for caller in callers {
            let to = &caller.workload;
            if to.namespace == namespace {
                let workload = NamespacedName::new(&to.namespace, &to.name);
                let of_pair = reports.entry((workload, &caller.identity)).or_default();
                of_pair.push(caller);
            }
        }
        for ((workload, identity), reports) in &reports {
            evidence.take(&look, workload, identity, reports);
        }
        let claims = flows.all.iter().filter(|flow| {
            flow.reporter != Some(Reporter::Destination)
                && !flow.identity.is_empty()
                && flow.answering().namespace == namespace
        });
        for flow in claims {
            let is_left_out = |workload: &NamespacedName| {
                let pair = (workload.clone(), &*flow.identity);
                reports.contains_key(&pair) && evidence.ports(workload, &flow.identity).is_none()
            };
            let targets = look.behind.of_flow(flow);
            let targets: Vec<_> = targets.filter(|(to, _)| !is_left_out(to)).collect();
            evidence.claim(&look, flow, &targets);
        }
        evidence
    }

    /// The ports that a caller is allowed.
    fn ports(&self, workload: &NamespacedName, identity: &str) -> Option<&BTreeSet<Port>> {
        let of_workload = self.allowed.get(workload)?;
        Some(&of_workload.get(&SpiffeId::parse(identity)?)?.ports)
    }

    /// Takes the reports of a workload about one caller.
    fn take(&mut self, look: &Look<'_>, to: &NamespacedName, from: &str, reports: &[&Caller]) {
        let rate = reports.iter().map(|report| report.rate()).sum();
        if !look.is_workload(to) {
            let reason = format!(
                "{to} is not a known workload; add its manifest, or ignore the call if its pods are gone"
            );
            self.nowhere.push(look.line(from, rate, &reason));
            return;
        }
        let forbidden = reports.iter().filter_map(|report| report.forbidden_percent);
        let forbidden = forbidden.fold(0.0, f64::max);
        let identity = match SpiffeId::parse(from) {
            Some(_) if forbidden > 0.0 => Err(format!("{forbidden:.2} % of its requests were forbidden (403, or PERMISSION_DENIED of gRPC)")),
            Some(identity) => Ok(identity),
            None if from.is_empty() => Err("without a certificate: no policy can name the caller, and a rule without callers would open the port".to_owned()),
            None => Err("the identity is not a SPIFFE id".to_owned()),
        };
        let identity = match identity {
            Ok(identity) => identity,
            Err(reason) => return self.doubt(to, look.line(from, rate, &reason)),
        };
        for report in reports {
            match look.called(to, &identity, report) {
                Ok((ports, is_chosen)) => {
                    let of_workload = self.allowed.entry(to.clone()).or_default();
                    let allowed = of_workload.entry(identity.clone()).or_default();
                    allowed.count += look.count(report.rate());
                    allowed.chosen.extend(ports.iter().filter(|_| is_chosen));
                    allowed.ports.extend(ports);
                }
                Err(reason) => self.doubt(to, look.line(from, report.rate(), &reason)),
            }
        }
    }

    /// Names a claim that no server supports.
    fn claim(&mut self, look: &Look<'_>, flow: &Flow, targets: &[(NamespacedName, Port)]) {
        let (from, rate) = (&*flow.identity, flow.rate());
        if look.behind.of_flow(flow).next().is_none() {
            let to = flow.answering();
            let port = flow.port.map(|port| format!(" port {port}"));
            let port = port.unwrap_or_default();
            let reason = format!("{}/{}{port} leads to no known pod", to.namespace, to.name);
            self.nowhere.push(look.line(from, rate, &reason));
        }
        for (workload, port) in targets {
            let allowed = self.ports(workload, from);
            // A claim without a port adds nothing to the report of a server.
            if allowed.is_some_and(|ports| flow.port.is_none() || ports.contains(port)) {
                continue;
            }
            let reason = match flow.answered_by_sidecar {
                true => "answered by the caller's own sidecar: no server has seen it".to_owned(),
                false => format!("port {port} is a claim of the caller: no server reports it"),
            };
            self.doubt(workload, look.line(from, rate, &reason));
        }
    }

    fn doubt(&mut self, workload: &NamespacedName, line: String) {
        let of_workload = self.doubtful.entry(workload.clone()).or_default();
        if !of_workload.contains(&line) {
            of_workload.push(line);
        }
    }
}

impl Look<'_> {
    fn is_workload(&self, name: &NamespacedName) -> bool {
        let mut pods = self.world.pods().values().filter(|pod| pod.alive);
        pods.any(|pod| pod.template.workload() == *name)
    }

    /// The ports of a workload that a caller has called by the report of the server, and whether the caller has chosen them among others.
    fn called(
        &self,
        to: &NamespacedName,
        from: &SpiffeId,
        report: &Caller,
    ) -> Result<(BTreeSet<Port>, bool), String> {
        let service = NamespacedName::new(&report.service.namespace, &report.service.name);
        if !self.world.services().contains_key(&service) {
            return Err("at a port to which no service leads: servers do not report ports, so that none can be named".to_owned());
        }
        let led = self.behind.ports(&service);
        let led: BTreeSet<Port> = led.filter(|(own, _)| own == to).map(|of| of.1).collect();
        if led.is_empty() {
            return Err(format!(
                "service {service} leads to no port of the workload"
            ));
        }
        let is_chosen = led.len() > 1;
        let mut ports = led.clone();
        if is_chosen {
            let claimed = self.claimed(to, from);
            ports.retain(|port| claimed.contains(port));
        }
        let list = |ports: &BTreeSet<Port>| {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            ports.join(", ")
        };
        if ports.is_empty() {
            let led = list(&led);
            return Err(format!(
                "service {service} leads to ports {led}, and no report names one"
            ));
        }
        // A server counts connections that its policies deny, without a mark.
        ports.retain(|port| !self.is_denied(to, from, *port));
        match ports.is_empty() {
            true => Err("the policies of the workload deny it".to_owned()),
            false => Ok((ports, is_chosen)),
        }
    }

    /// The ports of a workload that a caller names in its own reports.
    fn claimed(&self, to: &NamespacedName, from: &SpiffeId) -> BTreeSet<Port> {
        let own = self.flows.all.iter().filter(|flow| {
            flow.port.is_some() && !flow.answered_by_sidecar && flow.identity == from.as_str()
        });
        let targets = own.flat_map(|flow| self.behind.of_flow(flow));
        targets
            .filter(|(own, _)| own == to)
            .map(|of| of.1)
            .collect()
    }

    /// Whether the policies deny all that a caller can send to a port.
    fn is_denied(&self, to: &NamespacedName, from: &SpiffeId, port: Port) -> bool {
        let ports = self.compiled.served_ports();
        let mut ports = ports
            .filter(|of| of.port == Some(port) && of.template.workload() == *to)
            .peekable();
        let only = Operation::default();
        let passes = |http: bool, authz| {
            let asked = Asked {
                peer: Some(from),
                port: Some(port),
                http,
                only: &only,
            };
            !matches!(admitted(authz, &asked), Admitted::Never)
        };
        ports.peek().is_some()
            && ports.all(|of| {
                let mut ways = [true, false].into_iter();
                !ways.any(|http| reads(of.protocol, http) && passes(http, of.authz))
            })
    }

    fn line(&self, from: &str, rate: f64, reason: &str) -> String {
        let from = match from {
            "" => "a caller outside the mesh",
            identity => identity,
        };
        let count = self.count(rate);
        clean(&format!("{from}, {count} times: {reason}"), MAX_LINE)
    }

    /// Requests and connections in the window.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    fn count(&self, rate: f64) -> u64 {
        (rate * self.flows.window_seconds as f64).round() as u64
    }
}
