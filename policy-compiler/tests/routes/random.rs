//! Random route tables, and requests that come near to their rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_policy_compiler::traffic::{
    Action, Backend, Balance, CookieMatcher, Forward, GrpcMethod, GrpcName, HeaderChange,
    HeaderChanges, HeaderMatcher, HeaderPolicy, HostPattern, Origins, PathMatcher, PathRewrite,
    PresentLines, QueryMatcher, Redirect, RedirectStatus, Request, RequestMatcher, Rewrite,
    RouteEntry, RoutePolicy, RouteRule, RouteTable, RuleId, Scheme, TableUpstream, ValueMatcher,
    VirtualHost, Weight, WeightedBackend, WithoutBackend,
};
use heddle_policy_compiler::{NamespacedName, ObjectKind, ObjectRef};
use proptest::prelude::*;

use crate::features::{Keeping, keeping, mirrors, policy};
use crate::{BACKENDS, backend};

fn path() -> impl Strategy<Value = String> {
    "(/(a|b|%61)){0,2}/?".prop_map(|path| {
        if path.is_empty() {
            "/".to_owned()
        } else {
            path
        }
    })
}

fn expression() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]", "(a|b)/?", "a+", "%61"]
}

fn grpc_name() -> impl Strategy<Value = GrpcName> {
    prop_oneof![
        Just(GrpcName::Any),
        "[ab]".prop_map(|name| GrpcName::Exact(name.into())),
        expression().prop_map(|text| GrpcName::Regex(text.into())),
    ]
}

pub fn matcher() -> impl Strategy<Value = RequestMatcher> {
    let prefix = "(/(a|b)){0,2}";
    let path = prop_oneof![
        2 => Just(PathMatcher::Any),
        2 => path().prop_map(|path| PathMatcher::Exact(path.into())),
        3 => prefix.prop_map(|path| PathMatcher::Prefix(path.into())),
        1 => expression().prop_map(|text| PathMatcher::Regex(format!("/{text}.*").into())),
        1 => (grpc_name(), grpc_name()).prop_map(|(service, method)| {
            PathMatcher::Grpc(GrpcMethod { service, method })
        }),
    ];
    let method = proptest::option::weighted(0.2, prop_oneof!["GET", "POST"]);
    let value = || {
        prop_oneof![
            "[xy]{0,2}".prop_map(|text| ValueMatcher::Exact(text.into())),
            "[xy]{1,2}".prop_map(|text| ValueMatcher::Prefix(text.into())),
            "[xy.][?*+]?[xy]?".prop_map(|text| ValueMatcher::Regex(text.into())),
            Just(ValueMatcher::Present),
            Just(ValueMatcher::Absent),
        ]
    };
    let headers = proptest::collection::btree_map("x-[ab]", value(), 0..3);
    let query = proptest::collection::btree_map("[qr]", value(), 1..3);
    let query = prop_oneof![4 => Just(BTreeMap::new()), 1 => query];
    let cookies = proptest::collection::btree_map("[cd]", value(), 1..3);
    let cookies = prop_oneof![4 => Just(BTreeMap::new()), 1 => cookies];
    let all = (path, method, headers, cookies, query);
    all.prop_map(|(path, method, headers, cookies, query)| {
        let header = |(name, value): (String, _)| HeaderMatcher {
            name: name.into(),
            value,
        };
        RequestMatcher {
            server_name: None,
            path,
            method: method.map(Into::into),
            headers: headers.into_iter().map(header).collect(),
            cookies: cookies
                .into_iter()
                .map(|(name, value)| CookieMatcher {
                    name: name.into(),
                    value,
                })
                .collect(),
            query: query
                .into_iter()
                .map(|(name, value)| QueryMatcher {
                    name: name.into(),
                    value,
                })
                .collect(),
        }
    })
}

/// Changes of the headers with some of the names.
fn changes(names: &'static str) -> impl Strategy<Value = HeaderChanges> {
    let present = prop_oneof![
        Just(PresentLines::Keep),
        Just(PresentLines::Remove),
        "[xy%\"\\\\]{0,3}".prop_map(|value| PresentLines::Set(value.into())),
    ];
    let add = proptest::collection::vec("[xy%]{0,3}".prop_map(Arc::from), 0..3);
    let change = (present, add).prop_map(|(present, add)| HeaderChange { present, add });
    proptest::collection::btree_map(names.prop_map(Arc::from), change, 0..3).prop_map(HeaderChanges)
}

fn headers() -> impl Strategy<Value = HeaderPolicy> {
    let some = (changes("x-[abc]"), changes("y-[ab]"));
    let some = some.prop_map(|(request, response)| HeaderPolicy { request, response });
    prop_oneof![2 => Just(HeaderPolicy::default()), 1 => some]
}

fn path_rewrite() -> impl Strategy<Value = Option<PathRewrite>> {
    let full = "/(c|%25|c/d\\$1)".prop_map(|path| PathRewrite::Full(path.into()));
    let prefix = prop_oneof!["", "/c", "/%61/d"];
    let prefix = prefix.prop_map(|path| PathRewrite::Prefix(path.into()));
    proptest::option::weighted(0.5, prop_oneof![full, prefix])
}

fn rewrite() -> impl Strategy<Value = Rewrite> {
    let host = proptest::option::of(Just("other.example".into()));
    let some = (host, path_rewrite()).prop_map(|(host, path)| Rewrite { host, path });
    prop_oneof![2 => Just(Rewrite::default()), 1 => some]
}

fn redirect() -> impl Strategy<Value = Action> {
    let scheme = proptest::option::of(prop_oneof![Just(Scheme::Http), Just(Scheme::Https)]);
    let host = proptest::option::of(Just("other.example".into()));
    let port = prop_oneof![Just(80), Just(443), Just(8080)];
    let port = proptest::option::of(port.prop_map(|port: i32| port.try_into().unwrap()));
    let status = proptest::sample::select(RedirectStatus::ALL.to_vec());
    let all = (scheme, host, port, path_rewrite(), status);
    all.prop_map(|(scheme, host, port, path, status)| {
        Action::Redirect(Redirect {
            scheme,
            host,
            port,
            path,
            status,
        })
    })
}

fn forward() -> impl Strategy<Value = Action> {
    let shares = proptest::collection::vec((0..=BACKENDS, 0..3_u32, headers()), 1..4);
    let without = prop_oneof![
        Just(WithoutBackend::InternalError),
        Just(WithoutBackend::Unavailable)
    ];
    let all = (shares, rewrite(), mirrors(), keeping(), without);
    all.prop_map(|(shares, rewrite, mirrors, keeping, without_backend)| {
        let mut seen = BTreeSet::new();
        let shares = shares.into_iter().filter(|(index, ..)| seen.insert(*index));
        let backends = shares.map(|(index, weight, headers)| WeightedBackend {
            backend: if index == BACKENDS {
                Backend::Invalid(None)
            } else {
                backend(index)
            },
            weight: Weight::of(weight),
            headers,
        });
        let backends: Vec<WeightedBackend> = backends.collect();
        let Keeping { sticky, session } = keeping.of(backends.len());
        Action::Forward(Forward {
            rewrite,
            mirrors,
            sticky,
            session,
            without_backend,
            ..Forward::to(backends)
        })
    })
}

fn action() -> impl Strategy<Value = Action> {
    let respond = (200..500_u16).prop_map(|status| Action::Respond {
        status,
        body: "own".into(),
    });
    prop_oneof![6 => forward(), 2 => redirect(), 1 => respond]
}

/// Whether an action replaces the prefix that the matcher has.
fn replaces_prefix(action: &Action) -> bool {
    let path = match action {
        Action::Forward(forward) => &forward.rewrite.path,
        Action::Redirect(redirect) => &redirect.path,
        Action::Respond { .. } => &None,
    };
    matches!(path, Some(PathRewrite::Prefix(_)))
}

fn entries() -> impl Strategy<Value = Vec<RouteEntry>> {
    let rule = (
        action(),
        headers(),
        proptest::collection::vec(matcher(), 1..4),
        policy(),
    );
    // Filters that all rules have are in the table, and the others in the rules.
    let common = proptest::option::weighted(0.3, policy());
    let rules = proptest::collection::vec(rule, 0..5);
    (rules, common).prop_map(|(rules, common)| {
        type Rule = (Action, HeaderPolicy, Vec<RequestMatcher>, RoutePolicy);
        let of = |(index, (action, headers, matchers, policy)): (usize, Rule)| {
            let object = ObjectRef {
                kind: ObjectKind::TrafficSplit,
                namespace: "shop".into(),
                name: "s".into(),
            };
            let entry_action = action.clone();
            let rule = Arc::new(RouteRule {
                id: RuleId::Declared(object, index),
                action,
                headers,
                policy: common.clone().unwrap_or(policy),
                origins: BTreeSet::new(),
            });
            let entry = move |(alternative, matcher)| RouteEntry {
                matcher,
                alternative,
                rule: Arc::clone(&rule),
            };
            let prefixes = replaces_prefix(&entry_action);
            let matchers = matchers.into_iter().map(move |matcher| match matcher.path {
                PathMatcher::Exact(_) | PathMatcher::Regex(_) | PathMatcher::Grpc(_)
                    if prefixes =>
                {
                    RequestMatcher {
                        path: PathMatcher::Any,
                        ..matcher
                    }
                }
                _ => matcher,
            });
            matchers.enumerate().map(entry)
        };
        rules.into_iter().enumerate().flat_map(of).collect()
    })
}

pub fn table() -> impl Strategy<Value = RouteTable> {
    let named = proptest::option::of(entries());
    let ready = proptest::collection::vec(proptest::bool::weighted(0.8), BACKENDS);
    (entries(), named, 0..10, ready).prop_map(|(any, named, closed, ready)| {
        let mut hosts: Vec<VirtualHost> = named
            .into_iter()
            .map(|entries| VirtualHost {
                domains: vec![HostPattern::Exact("named.test".into())],
                ..VirtualHost::any(entries)
            })
            .collect();
        if closed > 0 {
            hosts.push(VirtualHost::any(any));
        }
        let upstream = |kind: &str, index: usize| {
            let upstream = TableUpstream {
                name: format!("{kind}{index}").into(),
                balance: Balance::RoundRobin,
                ready: ready[index],
                meshed: true,
            };
            (backend(index), upstream)
        };
        RouteTable {
            name: "t".into(),
            hosts,
            upstreams: (0..BACKENDS).map(|of| upstream("b", of)).collect(),
            mirrors: (0..BACKENDS).map(|of| upstream("m", of)).collect(),
            origins: Origins {
                service: NamespacedName::new("shop", "s"),
                rules: BTreeSet::new(),
            },
        }
    })
}

pub fn request() -> impl Strategy<Value = Request> {
    let host = prop_oneof![
        2 => "named\\.test",
        1 => "Named\\.test",
        1 => "other\\.test",
        1 => "other\\.test:(80|443|81)",
        1 => "\\[fd00::1\\](:(80|81))?"
    ];
    let parameter = "[qr](=[xy]{0,2})?";
    let query = proptest::collection::vec(parameter, 0..3);
    let query = query.prop_map(|all| match all.is_empty() {
        true => String::new(),
        false => format!("?{}", all.join("&")),
    });
    let query = prop_oneof![3 => query, 1 => Just("?q=/a".to_owned())];
    let headers = proptest::collection::vec(("x-[ab]", "[xy]{0,3}"), 0..4);
    let pair = prop_oneof![
        6 => "[cd]=[xy]{0,2}", 1 => "[cd]", 1 => "[cd]=\"[xy]?\"", 1 => "[cd]=[xy]?\"", 3 => "k=[0-9]{1,3}",
    ];
    let cookies = proptest::collection::vec(pair, 1..4).prop_map(|pairs| pairs.join("; "));
    let cookies = proptest::collection::vec(("cookie", cookies), 1..3);
    let cookies = prop_oneof![2 => Just(Vec::new()), 1 => cookies];
    let grpc = ("content-type".to_owned(), "application/grpc".to_owned());
    let grpc = prop_oneof![9 => Just(None), 1 => Just(Some(grpc))];
    let headers = (headers, cookies, grpc, browser());
    let headers = headers.prop_map(|(mut headers, cookies, grpc, browser)| {
        headers.extend(cookies);
        headers.extend(grpc);
        headers.extend(browser);
        headers
    });
    let method = prop_oneof![4 => "GET|POST", 1 => "OPTIONS"];
    (host, method, path(), query, headers).prop_map(|(host, method, path, query, headers)| {
        Request {
            host,
            method,
            path: format!("{path}{query}"),
            headers,
        }
    })
}

/// The headers of a browser.
fn browser() -> impl Strategy<Value = Vec<(String, String)>> {
    let origins = [
        "https://a.test",
        "https://x.b.test:8443",
        "https://.b.test:8443",
        "http://c.test",
        "http://c.test:81",
        "null",
        "",
        "*",
    ];
    let line = |name: &'static str, value| (name.to_owned(), value);
    let origin = proptest::sample::select(origins.to_vec()).prop_map(str::to_owned);
    let origin = proptest::collection::vec(origin, 1..3);
    let method = proptest::option::weighted(0.7, "PUT|GET|");
    let headers = proptest::option::of("(x-a(, ?x-b)?)?");
    let some = (origin, method, headers).prop_map(move |(origins, method, headers)| {
        let origins = origins.into_iter().enumerate();
        // Two lines are rare.
        let origins = origins.filter(|(index, text)| *index == 0 || text == "*");
        let origins = origins.map(|(_, value)| line("origin", value));
        let method = method.map(|value| line("access-control-request-method", value));
        let headers = headers.map(|value| line("access-control-request-headers", value));
        origins.chain(method).chain(headers).collect()
    });
    prop_oneof![1 => Just(Vec::new()), 1 => some]
}
