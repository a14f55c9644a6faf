//! All that the replicas told, the requests that were printed, and the verdict at the end.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use heddle_acceptor::clean;
use heddle_xds_types::tap::{TapAnswer, TapLine};

use super::follow::News;
use super::{MAX_REASON, TapArgs, text};
use crate::findings::plural;
use crate::out::{Format, say};

/// The state of a replica.
#[derive(Debug, Default)]
struct Told {
    /// The last answer, without its rows.
    answer: Option<TapAnswer>,
    /// Why it could not be asked, the last time.
    away: Option<String>,
}

/// The counts of replicas that are gone.
#[derive(Debug, Default)]
struct Counts {
    /// Whether one of them served the tap.
    served: bool,
    left_out: u64,
    lost: u64,
}

impl Counts {
    const fn add(&mut self, answer: &TapAnswer) {
        self.served = true;
        self.left_out = self.left_out.saturating_add(answer.left_out);
        self.lost = self.lost.saturating_add(answer.lost);
    }
}

/// All that was printed and heard.
pub(super) struct Seen<'a> {
    args: &'a TapArgs,
    replicas: BTreeMap<String, Told>,
    /// The replicas that are gone. News of them may still be on the way.
    gone: BTreeSet<String>,
    /// The last counts of those, added up.
    past: Counts,
    shown: u64,
    announced: bool,
    too_old: usize,
}

impl<'a> Seen<'a> {
    pub(super) const fn new(args: &'a TapArgs) -> Self {
        Self {
            args,
            replicas: BTreeMap::new(),
            gone: BTreeSet::new(),
            past: Counts {
                served: false,
                left_out: 0,
                lost: 0,
            },
            shown: 0,
            announced: false,
            too_old: 0,
        }
    }

    /// Forgets a replica that is gone: it is not missing, and its sidecars are those of another one now.
    pub(super) fn forget(&mut self, replica: &str) {
        self.gone.insert(replica.to_owned());
        if let Some(told) = self.replicas.remove(replica)
            && let Some(answer) = told.answer
        {
            self.past.add(&answer);
        }
    }

    /// Replicas that did not run for a while, and are followed again, count again.
    pub(super) fn are_back(&mut self, followed: impl Fn(&str) -> bool) {
        self.gone.retain(|name| !followed(name));
    }

    /// Whether a replica could not be asked, the last time.
    pub(super) fn is_partial(&self) -> bool {
        self.replicas.values().any(|told| told.away.is_some())
    }

    /// Takes the news of a replica. Returns whether the tap goes on.
    ///
    /// # Errors
    /// The replica refuses the tap, or a row cannot be written as JSON or YAML.
    pub(super) fn take(&mut self, replica: String, news: News) -> Result<bool> {
        if self.gone.contains(&replica) {
            return match news {
                News::Answer(answer) => self.print(answer.rows),
                News::Away(_) | News::Refused(_) => Ok(true),
            };
        }
        let told = self.replicas.entry(replica.clone()).or_default();
        match news {
            News::Refused(reason) => bail!("{replica}: {}", clean(&reason, MAX_REASON)),
            News::Away(reason) => {
                let reason = clean(&reason, MAX_REASON);
                if told.away.as_ref() != Some(&reason) {
                    crate::out::note!("heddle: {replica} could not be asked: {reason}");
                }
                told.away = Some(reason);
            }
            News::Answer(mut answer) => {
                told.away = None;
                let rows = std::mem::take(&mut answer.rows);
                told.answer = Some(answer);
                self.announce();
                return self.print(rows);
            }
        }
        Ok(true)
    }

    fn print(&mut self, rows: Vec<TapLine>) -> Result<bool> {
        for row in rows {
            match self.args.output {
                Format::Text => say!("{}", text::line(&row)),
                format @ (Format::Json | Format::Yaml) => format.print_next(&row, String::new)?,
            }
            self.shown += 1;
            if self.args.max.is_some_and(|max| self.shown >= max) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Prints once how many sidecars are tapped, and the names of those that cannot be.
    fn announce(&mut self) {
        if !self.announced {
            self.announced = true;
            crate::out::note!(
                "tapping {} for {} s; Ctrl-C ends it",
                self.args.target,
                self.args.timeout
            );
            if self.args.output == Format::Text {
                say!("{}", text::head());
            }
        }
        let old = self.sum(|answer| answer.too_old_count);
        if old > self.too_old {
            self.too_old = old;
            let answers = self.answers().flat_map(|answer| &answer.too_old);
            let names: Vec<&str> = answers.map(String::as_str).collect();
            let names = clean(&names.join(", "), MAX_REASON);
            crate::out::note!(
                "heddle: {} cannot be tapped, for the bootstrap is older than version {}: {names}; restart them",
                plural(old, "sidecar"),
                heddle_xds_types::tap::BOOTSTRAP
            );
        }
    }

    fn answers(&self) -> impl Iterator<Item = &TapAnswer> {
        self.replicas
            .values()
            .filter_map(|told| told.answer.as_ref())
    }

    fn sum<T: std::iter::Sum>(&self, of: impl Fn(&TapAnswer) -> T) -> T {
        self.answers().map(of).sum()
    }

    /// Prints the counts, and fails if the tap was not whole.
    pub(super) fn verdict(&self) -> Result<()> {
        let away: Vec<String> = self
            .replicas
            .iter()
            .filter_map(|(name, told)| Some(format!("{name}: {}", told.away.as_ref()?)))
            .collect();
        if self.answers().next().is_none() && !self.past.served {
            bail!(
                "no replica of the control plane served the tap\n  {}",
                away.join("\n  ")
            );
        }
        crate::out::note!("{}", self.summary());
        if away.is_empty() {
            return Ok(());
        }
        bail!(
            "this is partial: some replicas could not be asked\n  {}",
            away.join("\n  ")
        )
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "{} from {}",
            plural(usize::try_from(self.shown).unwrap_or(usize::MAX), "request"),
            plural(self.sum(|answer| answer.sidecars), "sidecar")
        );
        let left_out = self.past.left_out + self.sum(|answer| answer.left_out);
        if left_out > 0 {
            let rate = self.args.rate;
            text.push_str(&format!("; {left_out} matched and were left out, for a sidecar reports {rate} a second (--rate)"));
        }
        let lost = self.past.lost + self.sum(|answer| answer.lost);
        if lost > 0 {
            text.push_str(&format!("; {lost} were lost on the way"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::args;
    use super::*;

    fn answer(sidecars: usize, left_out: u64) -> News {
        News::Answer(TapAnswer {
            sidecars,
            left_out,
            lost: 1,
            ..TapAnswer::default()
        })
    }

    #[test]
    fn a_replica_that_is_gone_is_not_missing_and_its_counts_stay() {
        let args = args();
        let mut seen = Seen::new(&args);
        let take = |seen: &mut Seen<'_>, name: &str, news| seen.take(name.to_owned(), news);
        assert!(take(&mut seen, "old", answer(3, 5)).unwrap());
        assert!(take(&mut seen, "new", answer(3, 2)).unwrap());
        take(&mut seen, "old", News::Away("no answer".to_owned())).unwrap();
        assert!(seen.is_partial());
        let error = seen.verdict().unwrap_err().to_string();
        assert!(error.contains("old: no answer"), "{error}");

        seen.forget("old");
        // On the way while it was forgotten.
        take(&mut seen, "old", News::Away("no answer".to_owned())).unwrap();
        take(&mut seen, "old", News::Refused("unknown".to_owned())).unwrap();
        assert!(!seen.is_partial());
        seen.verdict().unwrap();
        assert_eq!(
            seen.summary(),
            "0 requests from 3 sidecars; 7 matched and were left out, for a sidecar reports 20 a second (--rate); 2 were lost on the way"
        );
        // All that served it are gone.
        seen.forget("new");
        seen.verdict().unwrap();
        assert!(Seen::new(&args).verdict().is_err());
    }
}
