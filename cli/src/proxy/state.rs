//! The state of one sidecar in words.

pub use heddle_xds_types::ProxyState;
use heddle_xds_types::bootstrap::BOOTSTRAP_VERSION;

/// A sidecar that enforces nothing.
const BYPASSED: &str = "bypassed";

/// The sync state of a [`ProxyState`] in words.
pub trait SyncSummary {
    /// Connected, in sync, and nothing rejected.
    fn is_well(&self) -> bool;
    /// The state in one line without a line break.
    fn summary(&self, now: u64) -> String;
    /// Whether the pod started with an older bootstrap than the one of this version. `None` if the replica does not report it.
    fn has_older_bootstrap(&self) -> Option<bool>;
}

impl SyncSummary for ProxyState {
    fn is_well(&self) -> bool {
        self.connected && self.behind == 0 && self.rejected.is_empty()
    }

    fn has_older_bootstrap(&self) -> Option<bool> {
        self.bootstrap.map(|version| version < BOOTSTRAP_VERSION)
    }

    fn summary(&self, now: u64) -> String {
        let since = |time: Option<u64>| {
            time.map_or_else(String::new, |time| format!(" for {}", age(now, time)))
        };
        if !self.connected {
            return match self.since {
                Some(since) => format!("not connected for {}", age(now, since)),
                None => "never connected".to_owned(),
            };
        }
        let behind = (self.behind > 0).then(|| {
            format!(
                "behind by {} of {}{}",
                self.behind,
                self.resources,
                since(self.behind_since)
            )
        });
        let rejects = (!self.rejected.is_empty())
            .then(|| format!("rejects {}", one_line(&self.rejected.join("; "))));
        let mut parts: Vec<String> = behind.into_iter().chain(rejects).collect();
        if parts.is_empty() {
            parts.push("in sync".to_owned());
        }
        if self.bypassed == Some(true) {
            parts.push(BYPASSED.to_owned());
        }
        parts.join(", ")
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How long ago a time was, in its largest unit. Clocks differ: the future is now.
pub fn age(now: u64, time: u64) -> String {
    let seconds = now.saturating_sub(time);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> ProxyState {
        ProxyState {
            connected: true,
            resources: 40,
            ..ProxyState::default()
        }
    }

    #[test]
    fn a_sync_state_has_its_time_and_reason() {
        let standing = |state: ProxyState| state.summary(1_000);
        assert_eq!(standing(connected()), "in sync");
        assert_eq!(standing(ProxyState::default()), "never connected");
        let gone = ProxyState {
            since: Some(400),
            ..ProxyState::default()
        };
        assert_eq!(standing(gone), "not connected for 10 min");
        let behind = ProxyState {
            behind: 2,
            behind_since: Some(988),
            ..connected()
        };
        assert_eq!(standing(behind.clone()), "behind by 2 of 40 for 12 s");
        let rejects = ProxyState {
            rejected: vec!["Cluster a: no\n such thing".to_owned()],
            ..behind
        };
        assert_eq!(
            standing(rejects),
            "behind by 2 of 40 for 12 s, rejects Cluster a: no such thing"
        );
    }

    #[test]
    fn ages_have_one_unit() {
        let ages = [0, 119, 120, 7_200, 172_800].map(|seconds| age(seconds, 0));
        assert_eq!(ages, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!(age(5, 9), "0 s", "the replica's clock is ahead");
    }

    #[test]
    fn fields_that_an_older_replica_lacks_are_unknown() {
        let state: ProxyState =
            serde_json::from_str(r#"{"proxy": "a/b", "connected": true, "new": 1}"#).unwrap();
        assert_eq!((state.scope, state.behind_since), (None, None));
        assert!(state.is_well());
    }
}
