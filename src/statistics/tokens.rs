//! Tokens: what answers have cost and hits have saved, in the application's unit, to a millionth. A sum is
//! kept in two counters, which need not agree with each other at any moment: whole units, and millionths.

use pgrx::datum::AnyNumeric;

/// The greatest cost of an answer. Counters of units hold nine thousand million of them.
pub const MOST_OF_AN_ANSWER: i64 = 1_000_000_000;

/// An expression: what an entry cost, in millionths, as bigint; NULL when that is not known. The column of an adopted
/// table may hold what no cost can be.
pub const MILLIONTHS: &str = "pg_catalog.int8(pg_catalog.numeric_mul(pg_catalog.numeric_larger(0, \
     pg_catalog.numeric_smaller(1000000000, CAST(token_cost AS pg_catalog.numeric))), 1000000))";

pub const MILLION: u64 = 1_000_000;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tokens {
    pub units: u64,
    /// Of a sum, any number of them.
    pub millionths: u64,
}

impl Tokens {
    /// From what [`MILLIONTHS`] has returned.
    pub fn of_cost(millionths: i64) -> Self {
        let millionths = millionths.max(0).unsigned_abs();
        Self { units: millionths / MILLION, millionths: millionths % MILLION }
    }

    /// From a column token_cost, as [`MILLIONTHS`] reads it. A double holds as many digits as a cost has.
    pub fn of_double(cost: f64) -> Self {
        let cost = cost.min(MOST_OF_AN_ANSWER as f64).max(0.0);
        Self::of_cost((cost * MILLION as f64).round() as i64)
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            units: self.units.saturating_add(other.units),
            millionths: self.millionths.saturating_add(other.millionths),
        }
    }

    pub fn minus(self, other: Self) -> Self {
        Self::of_total(self.total().saturating_sub(other.total()))
    }

    /// The same with less than a million millionths.
    pub fn carried(self) -> Self {
        Self::of_total(self.total())
    }

    fn of_total(millionths: u128) -> Self {
        let part = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        Self { units: part(millionths / u128::from(MILLION)), millionths: part(millionths % u128::from(MILLION)) }
    }

    /// The sum in millionths.
    pub fn total(self) -> u128 {
        u128::from(self.units) * u128::from(MILLION) + u128::from(self.millionths)
    }

    pub fn numeric(self) -> AnyNumeric {
        let Self { units, millionths } = self.carried();
        let text = format!("{units}.{millionths:06}");
        AnyNumeric::try_from(text.trim_end_matches('0').trim_end_matches('.')).expect("a decimal number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn costs_add_up(costs in proptest::collection::vec(0..=MOST_OF_AN_ANSWER * 1_000_000, 0..100), less in 0usize..100) {
            let sum = |costs: &[i64]| costs.iter().map(|cost| Tokens::of_cost(*cost)).fold(Tokens::default(), Tokens::plus);
            let total = |costs: &[i64]| costs.iter().map(|cost| cost.unsigned_abs() as u128).sum::<u128>();
            let (first, rest) = costs.split_at(less.min(costs.len()));
            prop_assert_eq!(sum(&costs).total(), total(&costs));
            prop_assert_eq!(sum(&costs).minus(sum(first)).total(), total(rest));
        }
    }

    #[test]
    fn what_is_less_than_nothing_is_nothing() {
        assert_eq!(Tokens::of_cost(-1), Tokens::default());
        assert_eq!(Tokens::of_cost(i64::MIN), Tokens::default());
    }
}
