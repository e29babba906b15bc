//! The keys that all operators have that ask a language model.

/// Makes the configuration of an operator: the keys of all operators that ask, and its own.
///
/// They are fields of one struct, and not of one inside another: serde cannot tell the place of an error, nor refuse unknown keys, in a struct that is
/// flattened into another.
macro_rules! asking_config {
    ($(#[$attribute:meta])* pub struct $name:ident of $kind:ident { $($own:tt)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// A language model behind an endpoint.
            #[serde(default)]
            pub endpoint: Option<$crate::scoring::asking::EndpointConfig>,
            /// A language model in this process: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub.
            #[serde(default)]
            pub model: Option<String>,
            /// An adapter of peft for `model` (LoRA, rsLoRA, DoRA): a folder with `adapter_config.json` and `adapter_model.safetensors`, a URL of one, or a
            /// repository on the Hugging Face Hub.
            #[serde(default)]
            pub adapter: Option<String>,
            /// The tokenizer, if it is not the one beside `model`; also what `max_text_tokens` counts with.
            #[serde(default)]
            pub tokenizer: Option<String>,
            /// What the weights of `model` are rounded to.
            #[serde(default)]
            pub precision: $crate::scoring::Precision,
            /// The text column.
            #[serde(default = "crate::scoring::reader::default_column")]
            pub column: String,
            /// What is asked, a template in the syntax of Jinja; `{{ text }}` if left out.
            #[serde(default)]
            pub prompt: Option<String>,
            /// A file that holds the template.
            #[serde(default)]
            pub prompt_file: Option<String>,
            /// The system message.
            #[serde(default)]
            pub system: Option<String>,
            /// A file that holds the system message; one that ends with `.json` an object whose `messages` stand before the prompt.
            #[serde(default)]
            pub system_file: Option<String>,
            /// The text is cut in front of the first occurrence of this.
            #[serde(default)]
            pub cut_at: Option<String>,
            /// The text is cut after so many characters.
            #[serde(default)]
            pub max_characters: Option<usize>,
            /// The text is cut after so many tokens of `tokenizer`.
            #[serde(default)]
            pub max_text_tokens: Option<usize>,
            /// Where answers of an endpoint are kept, a folder or the URL of one. In the run's folder if left out; outside of runs they are not kept.
            #[serde(default)]
            pub cache: Option<String>,
            $($own)*
        }

        impl $name {
            /// `chat`: whether prompts are messages to answer.
            fn back_end(&self, chat: bool) -> $crate::scoring::asking::BackEnd<'_> {
                $crate::scoring::asking::BackEnd {
                    kind: $kind,
                    endpoint: self.endpoint.as_ref(),
                    model: self.model.as_deref(),
                    adapter: self.adapter.as_deref(),
                    tokenizer: self.tokenizer.as_deref(),
                    precision: self.precision,
                    cache: self.cache.as_deref(),
                    max_text_tokens: self.max_text_tokens,
                    chat,
                }
            }

            /// The same.
            fn prompting(&self, chat: bool) -> $crate::scoring::asking::Prompting<'_> {
                $crate::scoring::asking::Prompting {
                    kind: $kind,
                    column: &self.column,
                    prompt: self.prompt.as_deref(),
                    prompt_file: self.prompt_file.as_deref(),
                    system: self.system.as_deref(),
                    system_file: self.system_file.as_deref(),
                    cut_at: self.cut_at.as_deref(),
                    max_characters: self.max_characters,
                    max_text_tokens: self.max_text_tokens,
                    tokenizer: self.tokenizer.as_deref().or(self.model.as_deref()),
                    chat,
                }
            }
        }
    };
}

pub(in crate::scoring) use asking_config;
