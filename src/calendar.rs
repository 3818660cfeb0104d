//! Calendar months in UTC.

use crate::error::Refusal;
use pgrx::PgSqlErrorCode;

/// Microseconds of a day.
pub const DAY: i64 = 86_400_000_000;

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL's timestamps begin.
const EPOCH_OFFSET_DAYS: i64 = 10_957;

/// A month of the years 1 to 9999, for which a partition can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(i64);

impl Month {
    /// Makes a month of a year and a number from 1 to 12; `None` outside the years 1 to 9999.
    pub fn new(year: i64, month: i64) -> Option<Self> {
        ((1..=9999).contains(&year) && (1..=12).contains(&month)).then(|| Self(year * 12 + month - 1))
    }

    /// Returns the month of a timestamp in microseconds since 2000-01-01 UTC; `None` for infinity and outside the years 1 to
    /// 9999.
    pub fn of(timestamp: i64) -> Option<Self> {
        if timestamp == i64::MAX || timestamp == i64::MIN {
            return None;
        }
        let (year, month) = civil_from_days(timestamp.div_euclid(DAY) + EPOCH_OFFSET_DAYS);
        Self::new(year, month)
    }

    /// Returns the month that is `months` later, or earlier when negative.
    pub fn plus(self, months: i64) -> Option<Self> {
        let number = self.0.checked_add(months)?;
        Self::new(number.div_euclid(12), number.rem_euclid(12) + 1)
    }

    pub fn year(self) -> i64 {
        self.0.div_euclid(12)
    }

    pub fn number(self) -> i64 {
        self.0.rem_euclid(12) + 1
    }

    /// The first microsecond of the month.
    pub fn start(self) -> i64 {
        (days_from_civil(self.year(), self.number()) - EPOCH_OFFSET_DAYS) * DAY
    }

    /// The first microsecond after the month.
    pub fn end(self) -> i64 {
        let next = self.0 + 1;
        (days_from_civil(next.div_euclid(12), next.rem_euclid(12) + 1) - EPOCH_OFFSET_DAYS) * DAY
    }

    /// Returns the end of the month's partition name, such as `2026_11`.
    pub fn suffix(self) -> String {
        format!("{:04}_{:02}", self.year(), self.number())
    }

    /// Returns the month's bounds as literals that mean the same in every time zone.
    pub fn bounds(self) -> (String, String) {
        let next = self.0 + 1;
        (literal(self.0), literal(next))
    }
}

fn literal(month: i64) -> String {
    format!("{:04}-{:02}-01 00:00:00+00", month.div_euclid(12), month.rem_euclid(12) + 1)
}

/// Returns year and month of a day counted from 1970-01-01. The proleptic Gregorian calendar repeats every 400 years of
/// 146,097 days. Counting years from March puts the leap day last.
fn civil_from_days(days: i64) -> (i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month)
}

/// Returns the days from 1970-01-01 to the first of a month.
fn days_from_civil(year: i64, month: i64) -> i64 {
    let year_from_march = if month <= 2 { year - 1 } else { year };
    let era = year_from_march.div_euclid(400);
    let year_of_era = year_from_march.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Returns the month of a time of the clock.
///
/// # Errors
/// 22008 outside the years 1 to 9999.
pub fn month_of(moment: i64) -> Month {
    Month::of(moment).unwrap_or_else(|| {
        Refusal::new(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "the cache has months in the years 1 to 9999")
            .detail("The server's clock shows another year.")
            .hint("Set the clock of the server.")
            .raise()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An independent calendar: counting day by day.
    fn days_in_month(year: i64, month: i64) -> i64 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    #[test]
    fn every_month_of_ten_millennia_follows_the_one_before() {
        let mut days = Month::new(2000, 1).unwrap().start() / DAY;
        assert_eq!(days, 0);
        for year in 2000..=9999 {
            for number in 1..=12 {
                let month = Month::new(year, number).unwrap();
                assert_eq!((month.year(), month.number()), (year, number));
                assert_eq!(month.start(), days * DAY);
                days += days_in_month(year, number);
                assert_eq!(month.end(), days * DAY);
                assert_eq!(Month::of(month.start()), Some(month));
                assert_eq!(Month::of(month.end() - 1), Some(month));
            }
        }
        let mut days = 0;
        for year in (1..2000).rev() {
            for number in (1..=12).rev() {
                let month = Month::new(year, number).unwrap();
                assert_eq!(month.end(), days * DAY);
                days -= days_in_month(year, number);
                assert_eq!(month.start(), days * DAY);
            }
        }
    }

    #[test]
    fn names_and_bounds() {
        let month = Month::new(2026, 12).unwrap();
        assert_eq!(month.suffix(), "2026_12");
        assert_eq!(month.bounds(), ("2026-12-01 00:00:00+00".into(), "2027-01-01 00:00:00+00".into()));
        assert_eq!(Month::new(33, 2).unwrap().suffix(), "0033_02");
    }

    #[test]
    fn what_has_no_month() {
        assert_eq!(Month::of(i64::MAX), None);
        assert_eq!(Month::of(i64::MIN), None);
        assert_eq!(Month::new(0, 1), None);
        assert_eq!(Month::new(10_000, 1), None);
        assert_eq!(Month::new(2026, 13), None);
        assert_eq!(Month::of(Month::new(9999, 12).unwrap().end()), None);
        assert_eq!(Month::new(9999, 12).unwrap().plus(1), None);
        assert_eq!(Month::new(1, 1).unwrap().plus(-1), None);
        assert_eq!(Month::new(1, 1).unwrap().plus(i64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_timestamp_lies_in_its_month(timestamp in any::<i64>()) {
            if let Some(month) = Month::of(timestamp) {
                prop_assert!(month.start() <= timestamp && timestamp < month.end());
            }
        }

        #[test]
        fn months_add_up(year in 1i64..=9999, number in 1i64..=12, months in -200_000i64..200_000) {
            let month = Month::new(year, number).unwrap();
            if let Some(other) = month.plus(months) {
                prop_assert_eq!(other.plus(-months), Some(month));
                prop_assert_eq!(other > month, months > 0);
            }
        }
    }
}
