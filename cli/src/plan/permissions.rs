//! Callers that a change denies or allows, at every port of every workload with a sidecar.

use std::collections::{BTreeMap, BTreeSet};

use heddle_policy_compiler::authz::{Admitted, Asked, Changed, Operation, admitted, difference};
use heddle_policy_compiler::world::{Port, SpiffeId};
use heddle_policy_compiler::{Compiled, NamespacedName, ServedPort};

use super::report::{Caller, Permission};
use crate::decisions::{decision, reads, request};
use crate::flows::{Flows, Servers};

/// The callers that are denied, and those that are allowed.
#[derive(Default)]
pub struct Permissions {
    /// They have requests that only pass before.
    pub denied: Vec<Permission>,
    /// They have requests that only pass after.
    pub allowed: Vec<Permission>,
}

type Place = (NamespacedName, Option<Port>);

/// A change of the decision about one caller.
#[derive(Clone)]
struct Judged {
    denied: bool,
    request: String,
    before: String,
    after: String,
}

/// Compares the decisions of two compiles.
pub fn compare(
    before: &Compiled,
    after: &Compiled,
    flows: &Flows,
    servers: &Servers,
) -> Permissions {
    let (old, new) = (by_place(before), by_place(after));
    let callers = callers(before, after, flows);
    let mut known: Vec<(Pair<'_>, Vec<(usize, Judged)>)> = Vec::new();
    let mut found = Permissions::default();
    let places: BTreeSet<&Place> = old.keys().chain(new.keys()).collect();
    for place in places {
        let Some(pair) = Pair::of(&old, &new, place) else {
            continue;
        };
        if pair.is_equal() {
            continue;
        }
        let index = known.iter().position(|(other, _)| other.is_alike(&pair));
        let index = index.unwrap_or_else(|| {
            let of_all = callers
                .iter()
                .enumerate()
                .flat_map(|(number, (identity, _))| {
                    let judged = pair.judge(identity.as_ref());
                    judged.into_iter().map(move |judged| (number, judged))
                });
            known.push((pair, of_all.collect()));
            known.len() - 1
        });
        let Some((_, judged)) = known.get(index) else {
            continue;
        };
        add(&mut found, place, judged, &callers, servers);
    }
    sort(&mut found.denied);
    sort(&mut found.allowed);
    found
}

/// Observed callers come first, and workloads with them.
fn sort(permissions: &mut [Permission]) {
    for permission in permissions.iter_mut() {
        let key = |caller: &Caller| caller.observed_per_second.is_none();
        permission.callers.sort_by_key(key);
    }
    let key = |permission: &Permission| {
        let place = (permission.workload.clone(), permission.ports.clone());
        (!permission.is_observed(), place)
    };
    permissions.sort_by_key(key);
}

/// All identities with their workloads; `None`: without a certificate.
type Callers = Vec<(Option<SpiffeId>, BTreeSet<String>)>;

fn callers(before: &Compiled, after: &Compiled, flows: &Flows) -> Callers {
    let mut callers =
        BTreeMap::<Option<SpiffeId>, BTreeSet<String>>::from([(None, BTreeSet::new())]);
    for proxy in before.proxies.values().chain(after.proxies.values()) {
        let workloads = callers.entry(Some(proxy.identity.clone())).or_default();
        workloads.insert(proxy.workload().to_string());
    }
    // An identity of another mesh has no sidecar here.
    let observed = flows
        .all
        .iter()
        .filter_map(|flow| SpiffeId::parse(&flow.identity));
    for identity in observed {
        callers.entry(Some(identity)).or_default();
    }
    callers.into_iter().collect()
}

fn by_place(compiled: &Compiled) -> BTreeMap<Place, ServedPort<'_>> {
    let mut ports = BTreeMap::new();
    for port in compiled.served_ports() {
        // While a workload is rolled out, the first of its templates stands for it.
        let place = (port.template.workload(), port.port);
        ports.entry(place).or_insert(port);
    }
    ports
}

/// A port before and after.
#[derive(Clone, Copy)]
struct Pair<'a> {
    before: ServedPort<'a>,
    after: ServedPort<'a>,
    port: Option<Port>,
}

impl<'a> Pair<'a> {
    /// A port that one side does not name is one of its other ports. `None`: the workload is only on one side.
    fn of(
        old: &BTreeMap<Place, ServedPort<'a>>,
        new: &BTreeMap<Place, ServedPort<'a>>,
        place: &Place,
    ) -> Option<Self> {
        let rest = (place.0.clone(), None);
        let before = old.get(place).or_else(|| old.get(&rest))?;
        let after = new.get(place).or_else(|| new.get(&rest))?;
        Some(Self {
            before: *before,
            after: *after,
            port: place.1,
        })
    }

    fn is_equal(&self) -> bool {
        let (before, after) = (&self.before, &self.after);
        before.plain == after.plain
            && before.protocol == after.protocol
            && (std::ptr::eq(before.authz, after.authz) || before.authz == after.authz)
    }

    /// Whether both decide about every caller alike.
    fn is_alike(&self, other: &Self) -> bool {
        let same = |one: &ServedPort<'_>, other: &ServedPort<'_>| {
            one.plain == other.plain
                && one.protocol == other.protocol
                && (std::ptr::eq(one.authz, other.authz) || one.authz == other.authz)
        };
        self.port == other.port
            && same(&self.before, &other.before)
            && same(&self.after, &other.after)
    }

    fn judge(&self, caller: Option<&SpiffeId>) -> Vec<Judged> {
        let any = Operation::default();
        let mut found = Vec::new();
        for http in [true, false] {
            let asked = Asked {
                peer: caller,
                port: self.port,
                http,
                only: &any,
            };
            let reads = |side: &ServedPort<'_>| reads(side.protocol, http);
            if !reads(&self.before) && !reads(&self.after) {
                continue;
            }
            let plain = |side: &ServedPort<'_>| caller.is_some() || side.plain;
            match (plain(&self.before), plain(&self.after)) {
                (true, true) => {
                    let of = difference(self.before.authz, self.after.authz, &asked);
                    found.extend(of.denied.map(|changed| Judged::of(true, &changed)));
                    found.extend(of.allowed.map(|changed| Judged::of(false, &changed)));
                }
                (false, false) => {}
                (was, _) => {
                    let side = if was { &self.before } else { &self.after };
                    found.extend(Judged::plain_text(was, side, &asked));
                }
            }
        }
        found
    }
}

impl Judged {
    fn of(denied: bool, changed: &Changed) -> Self {
        Self {
            denied,
            request: request(&changed.request),
            before: decision(&changed.before),
            after: decision(&changed.after),
        }
    }

    /// Plain text is accepted on one side only.
    fn plain_text(was: bool, side: &ServedPort<'_>, asked: &Asked<'_>) -> Option<Self> {
        let Admitted::By(passing, by) = admitted(side.authz, asked) else {
            return None;
        };
        let refused = "refused, for mTLS is demanded".to_owned();
        let accepted = decision(&by);
        let (before, after) = match was {
            true => (accepted, refused),
            false => (refused, accepted),
        };
        Some(Self {
            denied: was,
            request: request(&passing),
            before,
            after,
        })
    }
}

/// Adds the callers, those with equal decisions together, and ports with equal callers together.
fn add(
    found: &mut Permissions,
    (workload, port): &Place,
    judged: &[(usize, Judged)],
    callers: &Callers,
    servers: &Servers,
) {
    let mut here = Permissions::default();
    for (caller, judged) in judged {
        let Some((identity, workloads)) = callers.get(*caller) else {
            continue;
        };
        let list = match judged.denied {
            true => &mut here.denied,
            false => &mut here.allowed,
        };
        let identity = identity.as_ref().map_or("", |identity| identity.as_str());
        let caller = Caller {
            identity: identity.to_owned(),
            workloads: workloads.iter().cloned().collect(),
            observed_per_second: servers.rate(identity, workload, *port),
        };
        let known = list.iter_mut().find(|other| {
            let own = (&judged.request, &judged.before, &judged.after);
            own == (&other.request, &other.before, &other.after)
        });
        match known {
            Some(known) => known.callers.push(caller),
            None => list.push(Permission {
                workload: workload.to_string(),
                ports: port.map(Port::get).into_iter().collect(),
                other_ports: port.is_none(),
                request: judged.request.clone(),
                before: judged.before.clone(),
                after: judged.after.clone(),
                callers: vec![caller],
            }),
        }
    }
    for (all, own) in [
        (&mut found.denied, here.denied),
        (&mut found.allowed, here.allowed),
    ] {
        for permission in own {
            let before = all.iter_mut().rev();
            let mut of_workload = before.take_while(|other| other.workload == permission.workload);
            if !of_workload.any(|other| other.merge(&permission)) {
                all.push(permission);
            }
        }
    }
}
