//! What a function of the object answers: one table for the code, the header and the texts.

/// A row of the table.
pub(crate) struct Status {
    /// Name without prefix, as the header writes it.
    pub(crate) name: &'static str,
    /// What a function returns.
    pub(crate) code: i32,
    /// A sentence for people.
    pub(crate) text: &'static str,
}

macro_rules! statuses {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        $(pub(crate) const $name: i32 = $code;)*

        /// Every status, in the order of its number.
        pub(crate) const ALL: &[Status] = &[$(Status { name: stringify!($name), code: $code, text: $text }),*];
    };
}

statuses! {
    OK = 0, "done";
    NULL_ARGUMENT = -1, "an argument that must point somewhere is NULL";
    BAD_CONFIG = -2, "the configuration is out of range: slots, capacity, max_tokens and max_rows are at least 1, capacity is no more than the model's context, max_rows no more than max_tokens";
    TOO_SMALL = -3, "the memory or buffer is smaller than its size query says";
    MISALIGNED = -4, "the memory or the weights do not begin at a multiple of 64 bytes";
    OTHER_WEIGHTS = -5, "the weights are not those of this model: another length, or another header";
    NOT_A_CONTEXT = -6, "this is no context of this model: it was not opened, or by another model's object";
    BUSY = -7, "another thread is using this context";
    BAD_SLOT = -8, "there is no such slot";
    BAD_TOKEN = -9, "a token is outside the vocabulary";
    FULL = -10, "the tokens do not fit into what is left of the slot's capacity";
    BAD_COUNT = -11, "the number of tokens or of rows is negative, zero, or more than the context was opened for";
    BAD_ROW = -12, "a wanted row is not one of the step's tokens";
    BAD_STATE = -13, "the saved state is damaged, or was saved by another model";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn statuses_are_numbered_downwards_and_said_in_one_line() {
        for (at, status) in ALL.iter().enumerate() {
            assert_eq!(status.code, -(at as i32), "{}", status.name);
            assert!(!status.text.contains('\n') && !status.text.ends_with('.'), "{}", status.name);
        }
    }
}
