//! JSON read into a type, where another kind of value in its place is no error of the whole: a server
//! that writes its log-probabilities in a way of its own has given an answer all the same.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of the kind that was expected, or what stands there instead.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Loose<T> {
    /// Nothing, or `null`.
    #[default]
    Absent,
    /// A value of another kind.
    Other,
    Is(T),
}

impl<T> Loose<T> {
    pub(super) fn is(self) -> Option<T> {
        match self {
            Loose::Is(value) => Some(value),
            _ => None,
        }
    }
}

/// What a type can be read from; from nothing, unless it says so.
pub(super) trait Kind<'de>: Sized {
    fn text(_: &str) -> Option<Self> {
        None
    }

    fn number(_: f64) -> Option<Self> {
        None
    }

    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn object<A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl Kind<'_> for String {
    fn text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Kind<'_> for f64 {
    fn number(number: f64) -> Option<Self> {
        Some(number)
    }
}

impl<'de, T: Kind<'de>> Kind<'de> for Vec<Loose<T>> {
    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = list.next_element()? {
            all.push(one);
        }
        Ok(Some(all))
    }
}

/// An object that is read by a derived implementation.
pub(super) fn object_of<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    map: A,
) -> Result<Option<T>, A::Error> {
    T::deserialize(MapAccessDeserializer::new(map)).map(Some)
}

impl<'de, T: Kind<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData))
    }
}

struct Any<T>(PhantomData<T>);

impl<'de, T: Kind<'de>> Visitor<'de> for Any<T> {
    type Value = Loose<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Loose<T>, E> {
        Ok(Loose::Absent)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose<T>, E> {
        Ok(Loose::Other)
    }

    fn visit_i64<E>(self, n: i64) -> Result<Loose<T>, E> {
        Ok(T::number(n as f64).map_or(Loose::Other, Loose::Is))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Loose<T>, E> {
        Ok(T::number(n as f64).map_or(Loose::Other, Loose::Is))
    }

    fn visit_f64<E>(self, x: f64) -> Result<Loose<T>, E> {
        Ok(T::number(x).map_or(Loose::Other, Loose::Is))
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose<T>, E> {
        Ok(T::text(text).map_or(Loose::Other, Loose::Is))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Loose<T>, A::Error> {
        Ok(T::list(list)?.map_or(Loose::Other, Loose::Is))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Loose<T>, A::Error> {
        Ok(T::object(map)?.map_or(Loose::Other, Loose::Is))
    }
}
