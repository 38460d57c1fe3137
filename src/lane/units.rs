//! Lengths of time and amounts of bytes as people write them: `90s`, `5m`, `1GiB`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, never negative. Written as `500ms`, `90s`, `5m`, `1h 30m`, `7d`; days have 24 hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub fn duration(self) -> Duration {
        self.0
    }

    /// The span times a factor; used to stretch deadlines for a slow accelerator.
    pub fn scaled(self, factor: f64) -> Self {
        // A span that is too long to be stretched stays at the longest there is.
        Self(Duration::try_from_secs_f64(self.0.as_secs_f64() * factor).unwrap_or(Duration::MAX))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = jiff::SignedDuration::try_from(self.0).unwrap_or(jiff::SignedDuration::MAX);
        write!(formatter, "{signed:#}")
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not a length of time (write it like `90s`, `5m` or `1h 30m`)");
        let (days, rest) = match text.trim().split_once('d') {
            Some((days, rest)) if days.bytes().all(|byte| byte.is_ascii_digit()) => {
                (days.parse::<u32>().map_err(|_| wrong())?, rest.trim_start())
            }
            _ => (0, text.trim()),
        };
        let rest = match rest {
            "" if days > 0 => Duration::ZERO,
            rest => Duration::try_from(rest.parse::<jiff::SignedDuration>().map_err(|_| wrong())?)
                .map_err(|_| format!("`{text}` is negative, and a length of time cannot be"))?,
        };
        rest.checked_add(Duration::from_secs(u64::from(days) * 24 * 3600)).map(Span).ok_or_else(wrong)
    }
}

/// An amount of memory or disk in bytes. Written as `512MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Size {
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }

    pub const fn gibibytes(count: u64) -> Self {
        Self(count << 30)
    }

    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Exact where it can be, so that a size survives being printed and read again.
        match self.0 {
            0 => formatter.write_str("0B"),
            bytes if bytes.is_multiple_of(1 << 30) => write!(formatter, "{}GiB", bytes >> 30),
            bytes if bytes.is_multiple_of(1 << 20) => write!(formatter, "{}MiB", bytes >> 20),
            bytes if bytes.is_multiple_of(1 << 10) => write!(formatter, "{}KiB", bytes >> 10),
            bytes => write!(formatter, "{bytes}B"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim()
            .parse::<bytesize::ByteSize>()
            .map(|size| Size(size.as_u64()))
            .map_err(|_| format!("`{text}` is not a size (write it like `512MiB` or `1GiB`)"))
    }
}

/// A share of a whole, from nothing to all. Written as `10%`, `0.5%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// Of a million.
    pub millionths: u32,
}

impl Share {
    /// From 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.millionths) / 1e6
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}%", f64::from(self.millionths) / 1e4)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
            // At most a hundred times ten thousand: it fits.
            Some(percent) => Ok(Self { millionths: (percent * 1e4).round() as u32 }),
            None => Err(format!("`{text}` is not a share (write it like `10%` or `0.5%`)")),
        }
    }
}

/// How far a clock jumps, in milliseconds. Written as `+1h`, `-90s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shift(pub i64);

impl fmt::Display for Shift {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        write!(formatter, "{sign}{}", Span(Duration::from_millis(self.0.unsigned_abs())))
    }
}

impl FromStr for Shift {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not a jump of a clock (write it like `+1h` or `-90s`)");
        let (sign, span) = match text.trim().split_at_checked(1) {
            Some(("+", span)) => (1, span),
            Some(("-", span)) => (-1, span),
            _ => return Err(wrong()),
        };
        let span: Span = span.parse().map_err(|_| wrong())?;
        i64::try_from(span.duration().as_millis()).map(|milliseconds| Self(sign * milliseconds)).map_err(|_| wrong())
    }
}

/// What is written and read as a text.
macro_rules! as_text {
    ($type:ident, $description:literal, $($example:literal),+) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $description, "examples": [$($example),+] })
            }
        }
    };
}

as_text!(Span, "a length of time: `500ms`, `90s`, `5m`, `1h 30m`", "90s", "5m");
as_text!(Size, "an amount of bytes: `512MiB`, `1GiB`", "512MiB", "1GiB");
as_text!(Share, "a share: `10%`, `0.5%`", "10%", "0.5%");
as_text!(Shift, "a jump of a clock: `+1h`, `-90s`", "+1h", "-90s");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_survive_being_printed_and_read_again() {
        for text in ["500ms", "90s", "5m", "1h 30m"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
        assert_eq!("7d".parse::<Span>().unwrap(), Span::from_secs(7 * 24 * 3600));
        assert_eq!("1d 90s".parse::<Span>().unwrap(), Span::from_secs(24 * 3600 + 90));
        assert_eq!("-365d".parse::<Shift>().unwrap().to_string().parse::<Shift>().unwrap().0, -365 * 86_400_000);
        for text in ["1GiB", "512MiB", "3KiB", "17B"] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        assert!("fast".parse::<Span>().unwrap_err().contains("90s"));
        assert!("-5s".parse::<Span>().unwrap_err().contains("negative"));
        assert!("d".parse::<Span>().is_err() && "1d d".parse::<Span>().is_err() && "0d".parse::<Span>().is_err());
        assert!("much".parse::<Size>().unwrap_err().contains("GiB"));
    }
}
