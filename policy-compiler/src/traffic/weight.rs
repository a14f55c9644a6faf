//! The weight of a backend: as declared, and as requests are split.

/// The weight of a backend, relative to the sum of its rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight {
    /// The weight that the object of the rule has.
    pub declared: u32,
    /// The weight by which requests are split. Zero takes no requests.
    pub in_force: u32,
}

impl Weight {
    /// A weight that is in force as it is declared.
    #[must_use]
    pub const fn of(weight: u32) -> Self {
        Self {
            declared: weight,
            in_force: weight,
        }
    }

    /// Whether another weight than the declared one is in force.
    #[must_use]
    pub const fn is_held(self) -> bool {
        self.declared != self.in_force
    }
}
