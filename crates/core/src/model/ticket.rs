use std::fmt;

use super::ParseError;

/// The number that names a temporary image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TicketNumber(i64);

/// How ticket numbers are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketNumbers {
    /// At random, so that nobody can count upwards through other people's pictures.
    Random,
    /// One after the other, from 1001.
    Series,
}

impl TicketNumber {
    /// The largest whole number that every JSON reader can hold: 2⁵³ − 1 (RFC 8259 §6).
    pub const MAX: i64 = (1 << 53) - 1;

    /// A random one.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn draw() -> Result<Self, crate::Error> {
        loop {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).map_err(|error| crate::Error::internal("random bytes", &error))?;
            let number = i64::from_le_bytes(bytes) & Self::MAX;
            // Small ones belong to the series.
            if number > 1 << 40 {
                return Ok(Self(number));
            }
        }
    }

    /// From its stored form.
    #[must_use]
    pub fn from_stored(number: i64) -> Self {
        Self(number)
    }

    /// Parses the decimal form.
    ///
    /// # Errors
    /// When it is anything else than a whole number from 1 to [`TicketNumber::MAX`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && (1..=Self::MAX).contains(number));
        number.map(Self).ok_or(ParseError("a picture's id is a whole number from 1 to 9007199254740991"))
    }

    /// As stored.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for TicketNumber {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positive_and_fit_in_a_double() {
        for text in ["1", "1001", "9007199254740991"] {
            assert_eq!(TicketNumber::parse(text).expect("number").to_string(), text);
        }
        for text in ["", "0", "-1", "+1", "1.0", "1e3", "9007199254740992", "99999999999999999999", " 1", "١"] {
            assert!(TicketNumber::parse(text).is_err(), "{text:?}");
        }
        let drawn: std::collections::BTreeSet<i64> = (0..1000).map(|_| TicketNumber::draw().expect("random").get()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(drawn.iter().all(|number| (1..=TicketNumber::MAX).contains(number)));
    }
}
