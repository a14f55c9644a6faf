//! Route tables: all rules of a service port, in order of precedence.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::matcher::{CookieMatcher, PathMatcher, RequestMatcher, ValueMatcher};
use super::rule::{Action, Backend, Forward, RouteRule, RuleId, WeightedBackend};
use super::server_name::{NameRank, ServerName};
use super::sticky::{Sticky, StickyCookie, places};
use super::upstream::{Balance, Origins};
use super::weight::Weight;

/// The rules of one port of a service, for callers that get the same endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteTable {
    /// The name of the route configuration.
    pub name: Arc<str>,
    /// Hosts, the most exact pattern wins. Callers in the mesh choose by address: one host for every name.
    pub hosts: Vec<VirtualHost>,
    /// The upstreams of the backends, those without weight included: streams that began there go on, and weight can come back at once.
    /// The share of a backend that has none is answered by the caller's sidecar.
    pub upstreams: BTreeMap<Backend, TableUpstream>,
    /// The upstreams of the mirrors. They are others, so that copies have limits of their own. A mirror that has none copies nothing.
    pub mirrors: BTreeMap<Backend, TableUpstream>,
    /// The service, and the objects that decided its rules.
    pub origins: Origins,
}

impl RouteTable {
    /// Returns the upstream of a backend. None: the backend cannot be reached.
    #[must_use]
    pub fn upstream(&self, backend: &Backend) -> Option<&TableUpstream> {
        self.upstreams.get(backend)
    }

    /// Returns the upstream of a mirror. None: the mirror copies nothing.
    #[must_use]
    pub fn mirror(&self, backend: &Backend) -> Option<&TableUpstream> {
        self.mirrors.get(backend)
    }
}

/// The answer to requests that no rule of a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Otherwise {
    /// The requests go to the service as a whole.
    WholeService,
    /// The caller's sidecar answers them with status 404.
    NotFound,
}

/// The properties of an upstream that decide about the bytes of a route table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableUpstream {
    /// The name of its upstream.
    pub name: Arc<str>,
    /// How its upstream chooses an endpoint.
    pub balance: Balance,
    /// Whether it has endpoints, in tables that have sessions: those of a backend without any begin again. Else it is always true.
    pub ready: bool,
    /// Whether an endpoint has a sidecar, which can tell that it has not reached its application.
    pub meshed: bool,
}

/// The rules for requests to some host names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualHost {
    /// The host names.
    pub domains: Vec<HostPattern>,
    /// The rules by precedence; the first match counts.
    pub entries: Vec<RouteEntry>,
}

impl VirtualHost {
    /// Returns a host for every name, with its entries by precedence.
    #[must_use]
    pub fn any(mut entries: Vec<RouteEntry>) -> Self {
        entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
        Self {
            domains: vec![HostPattern::Any],
            entries,
        }
    }
}

/// The host names of a [`VirtualHost`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name alone.
    Exact(Arc<str>),
    /// Every name.
    Any,
}

/// One match of a rule, with the rule: a rule has an entry for each of its matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteEntry {
    /// The conditions that the request must meet.
    pub matcher: RequestMatcher,
    /// Its place among the alternatives of the rule.
    pub alternative: usize,
    /// The rule, shared by its entries.
    pub rule: Arc<RouteRule>,
}

/// The place of an entry: the smaller one is tried first. Two entries of a table never have the same one, for a rule has an alternative once.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank<'a> {
    server_name: Option<NameRank>,
    path: PathRank,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    rule: &'a RuleId,
    alternative: usize,
}

/// Exact paths come before regular expressions, those before prefixes, longer ones before shorter ones. Gateway API leaves the place of
/// regular expressions to implementations. Methods of gRPC are never in one table with other paths; the length of the service comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact(Reverse<usize>),
    Regex(Reverse<usize>),
    Prefix(Reverse<usize>),
    Grpc {
        service: Reverse<usize>,
        method: Reverse<usize>,
    },
    Any,
}

impl RouteEntry {
    /// Its place in a table: path, method, number of headers and cookies, number of query parameters; then the object by
    /// age and name, the rule and the alternative.
    #[must_use]
    pub fn rank(&self) -> Rank<'_> {
        let path = match &self.matcher.path {
            PathMatcher::Exact(path) => PathRank::Exact(Reverse(path.len())),
            PathMatcher::Regex(path) => PathRank::Regex(Reverse(path.len())),
            PathMatcher::Prefix(path) => PathRank::Prefix(Reverse(path.len())),
            PathMatcher::Grpc(of) => PathRank::Grpc {
                service: Reverse(of.service.len()),
                method: Reverse(of.method.len()),
            },
            PathMatcher::Any => PathRank::Any,
        };
        Rank {
            server_name: self.matcher.server_name.as_ref().map(ServerName::rank),
            path,
            method: Reverse(self.matcher.method.is_some()),
            headers: Reverse(self.matcher.headers.len() + self.matcher.cookies.len()),
            query: Reverse(self.matcher.query.len()),
            rule: &self.rule.id,
            alternative: self.alternative,
        }
    }

    /// The entries of users that have a cookie with their place, in the order of the backends that have weight. They come before this one.
    #[must_use]
    pub fn known_users(&self) -> Vec<Self> {
        let Action::Forward(forward) = &self.rule.action else {
            return Vec::new();
        };
        let Some(Sticky::Cookie(cookie)) = &forward.sticky else {
            return Vec::new();
        };
        let weights: Vec<u32> = forward.weighted().map(|of| of.weight.in_force).collect();
        let places = places(&weights, StickyCookie::PLACES);
        let shares = forward.weighted().zip(places);
        let known =
            shares.map(|(backend, places)| self.known(forward, backend, cookie.matcher(&places)));
        known.collect()
    }

    /// The entries of sessions of each backend, also of those without weight, with the index of the backend. They come before this one. A backend
    /// without endpoints has none.
    #[must_use]
    pub fn known_sessions(&self, table: &RouteTable) -> Vec<(usize, Self)> {
        let Action::Forward(forward) = &self.rule.action else {
            return Vec::new();
        };
        // Alone, a backend has all requests.
        let Some(session) = forward
            .session
            .as_ref()
            .filter(|_| forward.backends.len() > 1)
        else {
            return Vec::new();
        };
        let backends = forward.backends.iter().enumerate();
        let known = backends.filter_map(|(index, backend)| {
            table.upstream(&backend.backend).filter(|of| of.ready)?;
            let cookie = CookieMatcher {
                name: session.cookie(&self.rule.id, &backend.backend)?.into(),
                value: ValueMatcher::Present,
            };
            Some((index, self.known(forward, backend, cookie)))
        });
        known.collect()
    }

    /// The entry of users with a cookie that leads to this backend.
    fn known(&self, forward: &Forward, of: &WeightedBackend, cookie: CookieMatcher) -> Self {
        let mut entry = self.clone();
        entry.matcher.cookies.push(cookie);
        let only = WeightedBackend {
            weight: Weight::of(1),
            ..of.clone()
        };
        let forward = Forward {
            backends: vec![only],
            sticky: None,
            ..forward.clone()
        };
        Arc::make_mut(&mut entry.rule).action = Action::Forward(forward);
        entry
    }
}

/// Returns the entries for connections with server names, by precedence: each name once, of the rule that comes first.
pub(crate) fn by_server_name<'a>(
    entries: impl Iterator<Item = &'a RouteEntry>,
) -> Vec<&'a RouteEntry> {
    let named = entries.filter(|entry| entry.matcher.server_name.is_some());
    let mut named: Vec<&RouteEntry> = named.collect();
    named.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let mut seen = BTreeSet::new();
    named.retain(|entry| seen.insert(&entry.matcher.server_name));
    named
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::traffic::{
        GrpcMethod, GrpcName, HeaderMatcher, HeaderPolicy, QueryMatcher, RoutePolicy,
    };
    use crate::{ObjectKind, ObjectRef};

    fn matcher() -> impl Strategy<Value = RequestMatcher> {
        let path = prop_oneof![
            Just(PathMatcher::Any),
            "/[ab]{0,2}".prop_map(|path| PathMatcher::Exact(path.into())),
            "/[ab]{1,2}".prop_map(|path| PathMatcher::Prefix(path.into())),
            "/[ab]{1,2}".prop_map(|path| PathMatcher::Regex(path.into())),
            ("[ab]{0,2}", "[ab]{0,2}").prop_map(|(service, method)| {
                PathMatcher::Grpc(GrpcMethod {
                    service: GrpcName::Exact(service.into()),
                    method: GrpcName::Regex(method.into()),
                })
            }),
        ];
        let method = proptest::option::of(Just("GET".into()));
        let names = proptest::collection::btree_set("[xy]", 0..3);
        let query = proptest::collection::btree_set("[xy]", 0..3);
        let cookies = proptest::collection::btree_set("[xy]", 0..2);
        let server_name = prop_oneof![
            Just(None),
            "[ab]{1,2}".prop_map(|name| Some(ServerName::Exact(name.into()))),
            "[ab]{1,2}".prop_map(|name| Some(ServerName::Below(name.into()))),
        ];
        let all = (server_name, path, method, names, cookies, query);
        all.prop_map(
            |(server_name, path, method, names, cookies, query)| RequestMatcher {
                server_name,
                path,
                method,
                cookies: cookies
                    .into_iter()
                    .map(|name| CookieMatcher {
                        name: name.into(),
                        value: ValueMatcher::Present,
                    })
                    .collect(),
                query: query
                    .into_iter()
                    .map(|name| QueryMatcher {
                        name: name.into(),
                        value: ValueMatcher::Present,
                    })
                    .collect(),
                headers: names
                    .into_iter()
                    .map(|name| HeaderMatcher {
                        name: name.into(),
                        value: ValueMatcher::Present,
                    })
                    .collect(),
            },
        )
    }

    /// The rules of a table: those of routes, of splits, and that of the whole service. All rules of a route have its age, and some
    /// routes have the same one. The names of the rules would give another order than their indices.
    fn rules() -> impl Strategy<Value = Vec<RuleId>> {
        let routes = [("other", "a"), ("other", "b"), ("shop", "a"), ("shop", "b")];
        let ages = proptest::collection::vec(proptest::option::of(0..3_i64), routes.len());
        ages.prop_map(move |ages| {
            let mut rules = vec![RuleId::WholeService];
            for index in 0..3 {
                for ((namespace, name), created) in routes.into_iter().zip(&ages) {
                    rules.push(RuleId::Route {
                        created: *created,
                        object: ObjectRef::new(ObjectKind::HTTPRoute, namespace, name),
                        index,
                        name: (index != 1).then(|| format!("rule-{}", 9 - index).into()),
                    });
                }
                for name in ["a", "b"] {
                    let split = ObjectRef::new(ObjectKind::TrafficSplit, "shop", name);
                    rules.push(RuleId::Declared(split, index));
                }
            }
            rules
        })
    }

    fn entries() -> impl Strategy<Value = Vec<RouteEntry>> {
        let one = (matcher(), any::<Index>(), 0..3_usize);
        let all = proptest::collection::vec(one, 0..12);
        // With one matcher for all, the rules alone decide.
        let same = proptest::option::of(matcher());
        (rules(), all, same).prop_map(|(rules, all, same)| {
            let entry = |(matcher, rule, alternative): (_, Index, _)| {
                let rule = RouteRule {
                    id: rule.get(&rules).clone(),
                    action: Action::Respond {
                        status: 200,
                        body: "".into(),
                    },
                    headers: HeaderPolicy::default(),
                    policy: RoutePolicy::default(),
                    origins: BTreeSet::new(),
                };
                RouteEntry {
                    matcher: same.clone().unwrap_or(matcher),
                    alternative,
                    rule: Arc::new(rule),
                }
            };
            let mut seen = BTreeSet::new();
            let all = all.into_iter().map(entry);
            all.filter(|entry| seen.insert((entry.rule.id.clone(), entry.alternative)))
                .collect()
        })
    }

    /// The age, the object and the index of a rule, without the order of `RuleId`. The oldest route comes first, and one without a
    /// time before those; then come other objects, and last the whole service.
    fn origin(rule: &RuleId) -> (u8, Option<i64>, Option<(&str, &str)>, usize) {
        let (group, created, index) = match rule {
            RuleId::Route { created, index, .. } => (0, *created, *index),
            RuleId::Declared(_, index) => (1, None, *index),
            RuleId::WholeService => (2, None, 0),
        };
        let object = rule.object();
        let object = object.map(|object| (&*object.namespace, &*object.name));
        (group, created, object, index)
    }

    /// The order as Gateway API words it, without the rank.
    fn specified(a: &RouteEntry, b: &RouteEntry) -> Ordering {
        let exact = |e: &RouteEntry| matches!(e.matcher.path, PathMatcher::Exact(_));
        let regex = |e: &RouteEntry| matches!(e.matcher.path, PathMatcher::Regex(_));
        let length = |e: &RouteEntry| match &e.matcher.path {
            PathMatcher::Exact(path) | PathMatcher::Prefix(path) | PathMatcher::Regex(path) => {
                path.len()
            }
            PathMatcher::Any | PathMatcher::Grpc(_) => 0,
        };
        let grpc = |e: &RouteEntry| match &e.matcher.path {
            PathMatcher::Grpc(of) => Some((of.service.len(), of.method.len())),
            _ => None,
        };
        let prefix = |e: &RouteEntry| matches!(e.matcher.path, PathMatcher::Prefix(_));
        let headers = |of: &RequestMatcher| of.headers.len() + of.cookies.len();
        let (x, y) = (&a.matcher, &b.matcher);
        let below = |e: &RouteEntry| match &e.matcher.server_name {
            None => 0,
            Some(ServerName::Exact(_)) => 1,
            Some(ServerName::Below(_)) => 2,
        };
        let name = |of: &RequestMatcher| of.server_name.as_ref().map_or(0, ServerName::len);
        below(a)
            .cmp(&below(b))
            .then(name(y).cmp(&name(x)))
            .then(exact(b).cmp(&exact(a)))
            .then(regex(b).cmp(&regex(a)))
            .then(prefix(b).cmp(&prefix(a)))
            .then(grpc(b).cmp(&grpc(a)))
            .then(length(b).cmp(&length(a)))
            .then(y.method.is_some().cmp(&x.method.is_some()))
            .then(headers(y).cmp(&headers(x)))
            .then(y.query.len().cmp(&x.query.len()))
            .then(origin(&a.rule.id).cmp(&origin(&b.rule.id)))
            .then(a.alternative.cmp(&b.alternative))
    }

    proptest! {
        #[test]
        fn the_order_is_total_and_as_specified(entries in entries(), turn in 0..12_usize) {
            for a in &entries {
                for b in &entries {
                    prop_assert_eq!(a.rank().cmp(&b.rank()), specified(a, b));
                    prop_assert_eq!(a.rank() == b.rank(), a == b);
                }
            }
            let mut turned = entries.clone();
            turned.rotate_left(turn.min(entries.len()));
            turned.reverse();
            prop_assert_eq!(VirtualHost::any(entries), VirtualHost::any(turned));
        }
    }
}
