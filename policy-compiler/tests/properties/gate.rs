//! The gate of connections of bytes, held against the evaluator.

use std::net::IpAddr;

use heddle_policy_compiler::authz::{
    Operation, PortAuthz, Request, Rule, RuleAction, Source, decide, evaluate, refused_at_handshake,
};
use heddle_policy_compiler::world::SpiffeId;

fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new("d", namespace, account)
}

/// Callers of rules: by identity, by namespace, by both, any; from any address and from a block.
fn sources() -> Vec<Source> {
    let prefix = |namespace: &str| format!("spiffe://d/ns/{namespace}/").into();
    let plain = [
        Source::default(),
        Source {
            identities: vec![id("a", "x"), id("b", "y")],
            ..Source::default()
        },
        Source {
            identities: vec![id("a", "z")],
            ..Source::default()
        },
        Source {
            identity_prefixes: vec![prefix("a")],
            ..Source::default()
        },
        Source {
            identities: vec![id("a", "x"), id("b", "y")],
            identity_prefixes: vec![prefix("b"), prefix("c")],
            ..Source::default()
        },
    ];
    let near = plain.clone().map(|source| Source {
        blocks: vec!["10.0.0.0/8".parse().unwrap()],
        ..source
    });
    plain.into_iter().chain(near).collect()
}

fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for from in sources() {
        for action in [RuleAction::Allow, RuleAction::Deny] {
            rules.push(Rule {
                id: format!("t/p{}/0", rules.len()).into(),
                action,
                audit: false,
                from: from.clone(),
                to: Operation::default(),
            });
        }
    }
    let get = Operation {
        methods: vec!["GET".into()],
        ..Operation::default()
    };
    for (audit, to) in [(true, Operation::default()), (false, get)] {
        rules.push(Rule {
            id: format!("t/p{}/0", rules.len()).into(),
            action: RuleAction::Deny,
            audit,
            from: Source::default(),
            to,
        });
    }
    rules
}

/// Judges every peer from either address, and counts the peers that the gate refuses.
fn check(authz: &PortAuthz) -> usize {
    let peers = [
        None,
        Some(id("a", "x")),
        Some(id("a", "z")),
        Some(id("b", "y")),
        Some(id("c", "w")),
    ];
    let exact = authz.rules.iter().all(|rule| rule.from.blocks.is_empty());
    let mut refused = 0;
    for peer in peers {
        let gate = refused_at_handshake(authz, peer.as_ref());
        refused += usize::from(gate.is_some());
        for source in [[10, 0, 0, 1], [192, 0, 2, 1]] {
            let request = Request {
                peer: peer.clone(),
                source: IpAddr::from(source),
                port: None,
                http: None,
            };
            let allowed = evaluate(authz, &request, false).allowed();
            assert!(
                gate.is_none() || !allowed,
                "{gate:?} {request:?} {authz:#?}"
            );
            if exact {
                let verdict = decide(authz, &request, false).unwrap();
                let expected = (!verdict.allow).then_some(verdict.name);
                assert_eq!(gate, expected, "{request:?} {authz:#?}");
            }
        }
    }
    refused
}

#[test]
fn the_gate_refuses_only_peers_that_no_address_would_let_in() {
    let all = rules();
    let mut refused = 0;
    for default_allow in [true, false] {
        for (i, one) in all.iter().enumerate() {
            for (j, two) in all.iter().enumerate().skip(i) {
                for three in all.iter().skip(j).step_by(3) {
                    let mut rules = vec![one.clone(), two.clone(), three.clone()];
                    rules.sort_by(|a, b| a.id.cmp(&b.id));
                    rules.dedup_by(|a, b| a.id == b.id);
                    refused += check(&PortAuthz {
                        rules,
                        default_allow,
                        sharing: 1,
                    });
                }
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}
