//! Samples decide for all requests.

use std::net::IpAddr;
use std::sync::Arc;

use heddle_policy_compiler::authz::{
    Admitted, Asked, HeaderPattern, HeaderValuePattern, HttpRequest, Operation, PathPattern,
    PortAuthz, Request, Rule, RuleAction, Source, admitted, difference, evaluate,
};
use heddle_policy_compiler::world::{Port, SpiffeId};
use proptest::prelude::*;

const ACCOUNTS: [&str; 3] = ["frontend", "db", "other"];
const PATHS: [&str; 9] = [
    "/", "/a", "/a/", "/a/b", "/a/bc", "/A", "/admin", "/%61dmin", "/a//b",
];
const VALUES: [&str; 5] = ["x", "xy", "xz", "other", "x, y"];

fn identity(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account)
}

fn port(number: i32) -> Port {
    Port::try_from(number).unwrap()
}

fn pattern() -> impl Strategy<Value = PathPattern> {
    let path = prop::sample::select(&PATHS[..]);
    (any::<bool>(), path).prop_map(|(exact, path)| match exact {
        true => PathPattern::Exact(path.into()),
        false => PathPattern::Prefix(path.into()),
    })
}

fn header() -> impl Strategy<Value = HeaderPattern> {
    let value = prop::sample::select(&VALUES[..]).prop_map(Arc::<str>::from);
    let value = prop_oneof![
        value.clone().prop_map(HeaderValuePattern::Exact),
        value.clone().prop_map(HeaderValuePattern::Prefix),
        value.prop_map(|text| HeaderValuePattern::Regex(format!("{text}|[a-c]+1").into())),
        Just(HeaderValuePattern::Present),
        Just(HeaderValuePattern::Absent),
    ];
    let name = prop::sample::select(vec!["x-a", "x_a", "x-b"]);
    (name, value).prop_map(|(name, value)| HeaderPattern {
        name: name.into(),
        value,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let ports = prop::sample::subsequence(vec![port(80), port(81)], 0..=1);
    let methods = prop::sample::subsequence(vec!["GET", "POST", "ANY"], 0..=2);
    let paths = prop::collection::vec(pattern(), 0..3);
    let headers = prop::collection::vec(header(), 0..3);
    (ports, methods, paths, any::<bool>(), headers).prop_map(
        |(ports, methods, paths, ignore_case, headers)| Operation {
            ports,
            methods: methods.into_iter().map(Into::into).collect(),
            paths,
            ignore_case,
            headers,
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let identities = prop::sample::subsequence(&ACCOUNTS[..], 0..=2);
    let blocks = prop::sample::subsequence(vec!["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"], 0..=2);
    let deny = prop::bool::weighted(0.6);
    (
        deny,
        any::<bool>(),
        identities,
        blocks,
        operation(),
        0..1000_u32,
    )
        .prop_map(|(deny, prefixed, identities, blocks, to, id)| Rule {
            id: format!("shop/p/{id}").into(),
            action: match deny {
                true => RuleAction::Deny,
                false => RuleAction::Allow,
            },
            audit: id % 10 == 0,
            from: Source {
                identities: identities.into_iter().map(identity).collect(),
                identity_prefixes: match prefixed && id % 3 == 0 {
                    true => vec!["spiffe://cluster.local/ns/shop/".into()],
                    false => Vec::new(),
                },
                blocks: blocks.into_iter().map(|b| b.parse().unwrap()).collect(),
            },
            to,
        })
}

fn authz() -> impl Strategy<Value = PortAuthz> {
    (prop::collection::vec(rule(), 0..5), any::<bool>()).prop_map(|(rules, default_allow)| {
        PortAuthz {
            rules,
            default_allow,
            sharing: 1,
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let peer = prop::option::weighted(0.8, prop::sample::select(&ACCOUNTS[..]));
    let path = (prop::sample::select(&PATHS[..]), "[a-cz/%?]{0,3}");
    let method = prop::sample::select(vec!["GET", "POST", "DELETE", "ANY", "get"]);
    let line = (
        prop::sample::select(vec!["x-a", "x_a", "x-b"]),
        prop::sample::select(vec!["x", "xy", "xyz", "other", "a1", "x, y", "y", ""]),
    );
    let http = (method, path, prop::collection::vec(line, 0..3));
    let source = prop::sample::select(vec![
        "10.0.0.1",
        "10.1.2.3",
        "10.2.0.0",
        "192.0.2.1",
        "fd00::1",
        "::1",
    ]);
    (peer, prop::option::weighted(0.8, http), source).prop_map(|(peer, http, source)| Request {
        peer: peer.map(identity),
        source: source.parse::<IpAddr>().unwrap(),
        port: Some(port(80)),
        http: http.map(|(method, (path, more), headers)| HttpRequest {
            method: method.to_owned(),
            path: format!("{path}{more}"),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }),
    })
}

fn asked<'a>(request: &'a Request, only: &'a Operation) -> Asked<'a> {
    Asked {
        peer: request.peer.as_ref(),
        port: request.port,
        http: request.http.is_some(),
        only,
    }
}

/// Whether a request has the method and the path of an operation.
fn is_within(request: &Request, only: &Operation) -> bool {
    let Some(http) = &request.http else {
        return true;
    };
    let path = http.path.split('?').next().unwrap_or_default();
    let on_path = |pattern: &PathPattern| match pattern {
        PathPattern::Exact(text) => **text == *path,
        PathPattern::Prefix(text) => path.starts_with(&**text),
    };
    (only.methods.is_empty() || only.methods.iter().any(|method| **method == *http.method))
        && (only.paths.is_empty() || only.paths.iter().any(on_path))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    /// A sample that passes is a request of the caller that the rules let pass, and no request passes where no sample can.
    #[test]
    fn a_caller_that_is_never_admitted_has_no_request_that_passes(authz in authz(), request in request(), only in operation()) {
        let only = Operation { methods: only.methods, paths: only.paths, ..Operation::default() };
        match admitted(&authz, &asked(&request, &only)) {
            Admitted::Never => if is_within(&request, &only) {
                prop_assert!(!evaluate(&authz, &request, false).allowed());
            },
            Admitted::By(sample, decision) => {
                prop_assert_eq!(evaluate(&authz, &sample, false), decision);
                prop_assert_eq!((sample.peer.clone(), sample.port), (request.peer, request.port));
                prop_assert!(is_within(&sample, &only), "{:?}", sample);
            }
            Admitted::Undecided => {
                let expression = |header: &HeaderPattern| matches!(header.value, HeaderValuePattern::Regex(_));
                let mut headers = authz.rules.iter().flat_map(|rule| &rule.to.headers);
                let many = authz.rules.iter().any(|rule| rule.to.headers.len() > 1);
                let lists = authz.rules.iter().any(|rule| rule.to.headers.iter().any(|h| matches!(&h.value, HeaderValuePattern::Prefix(text) if text.contains(','))));
                let cases = authz.rules.iter().any(|rule| rule.to.ignore_case) && authz.rules.iter().any(|rule| !rule.to.ignore_case);
                let escapes = authz.rules.iter().any(|rule| rule.to.paths.iter().any(|p| matches!(p, PathPattern::Prefix(text) if &**text != "/" && &**text != "/a" )));
                prop_assert!(headers.any(expression) || many || lists || cases || escapes, "undecided without a reason");
            }
        }
    }

    /// The requests of a difference are decided differently, each in its direction, and equal rules have none.
    #[test]
    fn a_difference_is_shown_by_its_requests(before in authz(), after in authz(), request in request()) {
        let only = Operation::default();
        let found = difference(&before, &after, &asked(&request, &only));
        for (changed, passed) in [(&found.denied, true), (&found.allowed, false)] {
            if let Some(changed) = changed {
                prop_assert_eq!(evaluate(&before, &changed.request, false), changed.before.clone());
                prop_assert_eq!(evaluate(&after, &changed.request, false), changed.after.clone());
                prop_assert_eq!((changed.before.allowed(), changed.after.allowed()), (passed, !passed));
            }
        }
        let none = difference(&before, &before, &asked(&request, &only));
        prop_assert!(none.denied.is_none() && none.allowed.is_none());
    }

    /// A rule that is added and changes the decision about an ordinary request shows in the difference.
    #[test]
    fn a_rule_that_decides_shows_in_the_difference(before in authz(), more in rule(), request in request()) {
        let mut after = before.clone();
        after.rules.push(more);
        let plain = request.http.as_ref().is_none_or(|http| http.headers.is_empty());
        let (was, is) = (evaluate(&before, &request, false), evaluate(&after, &request, false));
        prop_assume!(plain && was.allowed() != is.allowed());
        let only = Operation::default();
        let found = difference(&before, &after, &asked(&request, &only));
        prop_assert!(found.denied.is_some() || found.allowed.is_some());
    }
}
