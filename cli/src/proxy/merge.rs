//! Merges the reports of all replicas. Each lists every sidecar, and the state only of those that it serves.

use std::collections::BTreeMap;

use super::state::{ProxyState, SyncSummary as _};

/// The report of one replica on its sidecars.
pub type Replica = crate::replicas::Replica<Vec<ProxyState>>;

/// Whether a replica was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its pod.
    pub name: String,
    /// How many sidecars it serves, or why it could not be asked.
    pub outcome: Result<usize, String>,
}

/// A sidecar, and the replica that has its stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Placed {
    /// None: it has a stream to none of those that were asked.
    pub replica: Option<String>,
    /// In the words of that replica, or of the one that saw it last.
    pub state: ProxyState,
}

impl Placed {
    /// Takes the report of the replica that counts first; the certificate may come from another one, which issued it.
    fn join(&mut self, other: Self) {
        let certificates = [self.state.certificate, other.state.certificate];
        if counts_first(&other.state, &self.state) {
            *self = other;
        }
        let newest = certificates.into_iter().flatten();
        self.state.certificate = newest.max_by_key(|of| of.not_after);
    }
}

/// All of it, sorted by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MeshReport {
    /// The replicas.
    pub replicas: Vec<Asked>,
    /// The sidecars.
    pub proxies: Vec<Placed>,
}

impl MeshReport {
    /// The replicas that could not be asked, and why.
    pub fn unasked(&self) -> impl Iterator<Item = (&str, &str)> {
        self.replicas
            .iter()
            .filter_map(|asked| Some((asked.name.as_str(), asked.outcome.as_ref().err()?.as_str())))
    }

    /// Whether every replica answered.
    pub fn is_complete(&self) -> bool {
        self.unasked().next().is_none()
    }

    /// How a sidecar stands. Without a stream to those that were asked, it may have one to another.
    pub fn summary(&self, placed: &Placed, now: u64) -> String {
        if placed.state.connected || self.is_complete() {
            placed.state.summary(now)
        } else {
            "not connected to a replica that was asked".to_owned()
        }
    }

    /// How many sidecars are known not to be as they should.
    pub fn amiss(&self) -> usize {
        let known = |placed: &&Placed| placed.state.connected || self.is_complete();
        let proxies = self.proxies.iter().filter(known);
        proxies.filter(|placed| !placed.state.is_well()).count()
    }

    /// Whether any replica answered.
    pub fn is_answered(&self) -> bool {
        self.replicas.iter().any(|asked| asked.outcome.is_ok())
    }

    /// Leaves out all but one sidecar (`namespace/pod`), all pods of a name, or all of a namespace (`namespace/`).
    pub fn keep(&mut self, wanted: &str) {
        self.proxies.retain(|placed| {
            let proxy = &placed.state.proxy;
            proxy == wanted
                || proxy.rsplit('/').next() == Some(wanted)
                || (wanted.ends_with('/') && proxy.starts_with(wanted))
        });
    }
}

/// Puts the answers together.
pub fn merge(mut replicas: Vec<Replica>) -> MeshReport {
    replicas.sort_by(|one, other| one.name.cmp(&other.name));
    let mut report = MeshReport::default();
    let mut proxies = BTreeMap::<String, Placed>::new();
    for replica in replicas {
        let outcome = replica.answer.map(|states| {
            let served = states.iter().filter(|state| state.connected).count();
            for state in states {
                let placed = Placed {
                    replica: state.connected.then(|| replica.name.clone()),
                    state,
                };
                match proxies.get_mut(&placed.state.proxy) {
                    Some(known) => known.join(placed),
                    None => {
                        proxies.insert(placed.state.proxy.clone(), placed);
                    }
                }
            }
            served
        });
        report.replicas.push(Asked {
            name: replica.name,
            outcome,
        });
    }
    report.proxies = proxies.into_values().collect();
    report
}

/// A replica with a stream counts first; of two, the later one: a stream that the proxy gave up may look alive for a while.
fn counts_first(one: &ProxyState, other: &ProxyState) -> bool {
    (one.connected, one.since) > (other.connected, other.since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(proxy: &str, connected: bool, since: Option<u64>) -> ProxyState {
        ProxyState {
            proxy: proxy.to_owned(),
            connected,
            since,
            ..ProxyState::default()
        }
    }

    fn replica(name: &str, states: Vec<ProxyState>) -> Replica {
        Replica {
            name: name.to_owned(),
            answer: Ok(states),
        }
    }

    fn places(report: &MeshReport) -> Vec<(&str, Option<&str>)> {
        report
            .proxies
            .iter()
            .map(|placed| (placed.state.proxy.as_str(), placed.replica.as_deref()))
            .collect()
    }

    #[test]
    fn a_sidecar_is_shown_by_the_replica_that_has_its_stream() {
        let report = merge(vec![
            replica(
                "b",
                vec![
                    state("s/1", true, Some(5)),
                    state("s/2", false, None),
                    state("s/3", false, Some(7)),
                ],
            ),
            replica(
                "a",
                vec![
                    state("s/1", false, Some(9)),
                    state("s/2", true, Some(1)),
                    state("s/3", false, None),
                ],
            ),
        ]);
        assert_eq!(
            places(&report),
            [("s/1", Some("b")), ("s/2", Some("a")), ("s/3", None)]
        );
        assert_eq!(
            report.proxies[2].state.since,
            Some(7),
            "the last one to see it says when"
        );
        let served: Vec<_> = report
            .replicas
            .iter()
            .map(|asked| (asked.name.as_str(), &asked.outcome))
            .collect();
        assert_eq!(served, [("a", &Ok(1)), ("b", &Ok(1))]);
    }

    #[test]
    fn of_two_streams_the_later_one_is_alive() {
        for order in [["a", "b"], ["b", "a"]] {
            let since = |name: &str| if name == "a" { 10 } else { 20 };
            let answers =
                order.map(|name| replica(name, vec![state("s/1", true, Some(since(name)))]));
            assert_eq!(places(&merge(answers.into())), [("s/1", Some("b"))]);
        }
    }

    #[test]
    fn a_replica_that_cannot_be_asked_is_named() {
        let silent = Replica {
            name: "z".to_owned(),
            answer: Err("no answer".to_owned()),
        };
        let mut report = merge(vec![
            silent,
            replica(
                "a",
                vec![
                    state("s/1", true, None),
                    state("t/1", true, None),
                    state("s/2", true, None),
                ],
            ),
        ]);
        assert_eq!(report.unasked().collect::<Vec<_>>(), [("z", "no answer")]);
        assert!(report.is_answered() && !report.is_complete());
        report.keep("1");
        assert_eq!(places(&report).len(), 2);
        report.keep("s/1");
        assert_eq!(places(&report), [("s/1", Some("a"))]);
    }

    #[test]
    fn sidecars_of_a_silent_replica_are_not_called_lost() {
        let states = || vec![state("s/1", false, None), state("s/2", true, None)];
        let whole = merge(vec![replica("a", states())]);
        assert_eq!(whole.summary(&whole.proxies[0], 0), "never connected");
        assert_eq!(whole.amiss(), 1);
        let silent = Replica {
            name: "z".to_owned(),
            answer: Err("no answer".to_owned()),
        };
        let partial = merge(vec![replica("a", states()), silent]);
        assert_eq!(
            partial.summary(&partial.proxies[0], 0),
            "not connected to a replica that was asked"
        );
        assert_eq!(partial.amiss(), 0);
    }
}
