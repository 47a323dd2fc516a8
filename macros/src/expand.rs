//! What is written beside the function.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, Type};

use crate::task::{Kind, Output, Parameter, Task, is_named, owned_form, result_arguments};

/// The struct with `call` and `partial`, and the definition that the linker collects.
pub(crate) fn task(task: &Task) -> TokenStream {
    let made = quote!(::garenne::__private::CallBuilder::new(
        <Self as ::garenne::Task>::DEFINITION
    ));
    let name = task.function_name();
    let about = format!("The task `{name}`: see [`call`](Self::call).");
    let head = head(task, &quote!(#[doc = #about]), &functions(task, &made));
    let registration = registration(task);
    quote!(#head #registration)
}

/// The struct of a task that runs elsewhere. Nothing is registered: no worker can run it for having it declared.
pub(crate) fn declaration(task: &Task) -> TokenStream {
    let (name, options) = (name(task), options(task));
    let made = quote!(::garenne::__private::CallBuilder::of_foreign(#name, &#options));
    // There is no function to bear its documentation.
    let mut about = task.documentation().peekable();
    let about = match about.peek() {
        Some(_) => quote!(#(#about)*),
        None => {
            let name = task.function_name();
            let about =
                format!("The task `{name}`, which runs elsewhere: see [`call`](Self::call).");
            quote!(#[doc = #about])
        }
    };
    let head = head(task, &about, &functions(task, &made));
    // The error's type is in no call, but must not be any word either.
    let returned = match &task.output {
        Output::Fallible(ty) => {
            let attributes = task.shared_attributes();
            quote! {
                #(#attributes)*
                const _: () = {
                    #[allow(dead_code)]
                    type Returned = #ty;
                };
            }
        }
        Output::Unit | Output::Value(_) => quote!(),
    };
    quote!(#head #returned)
}

/// `call` and `partial`; `made` is the builder of calls.
fn functions(task: &Task, made: &TokenStream) -> TokenStream {
    let arguments: Vec<_> = task
        .owned()
        .enumerate()
        .map(|(position, (ident, ty))| {
            let parameter = parameter(position, ident, ty);
            quote_spanned!(ty.span()=> .argument(&#parameter, #ident))
        })
        .collect();
    let ident = &task.signature.ident;
    let builder = |arguments: &[TokenStream]| quote_spanned!(ident.span()=> #made #(#arguments)*);
    let parameters: Vec<_> = task
        .owned()
        .map(|(ident, ty)| quote!(#ident: #ty))
        .collect();
    let made = builder(&arguments);
    let call = call(task, &parameters, &quote!(), &quote!(#made.call()));
    let partial = task.owned().next().map(|(_, input)| {
        let made = builder(&arguments[1..]);
        partial(
            task,
            input,
            &parameters[1..],
            &quote!(),
            &quote!(#made.partial()),
        )
    });
    quote!(#call #partial)
}

/// For a function that cannot be a task: a `call` and a `partial` of about the right form, so that its users
/// do not fail as well.
pub(crate) fn fallback(task: &Task) -> TokenStream {
    if task.signature.receiver().is_some() {
        return TokenStream::new(); // A struct cannot stand beside a method.
    }
    let generics = &task.signature.generics;
    let owned = task.parameters.iter().filter_map(|parameter| {
        let ident = &parameter.ident;
        match &parameter.kind {
            Kind::Owned(ty) => Some((ident, quote!(#ty))),
            Kind::Lent(reference) => owned_form(reference).map(|ty| (ident, quote!(#ty))),
        }
    });
    let (idents, types): (Vec<_>, Vec<_>) = owned.unzip();
    let parameters: Vec<_> = idents
        .iter()
        .zip(&types)
        .map(|(ident, ty)| quote!(#ident: #ty))
        .collect();
    let (generics, body) = (quote!(#generics), quote!(::core::unreachable!()));
    let call = call(task, &parameters, &generics, &body);
    // What its input is may be just what is wrong with it.
    let input = Ident::new("__GarenneInput", Span::call_site());
    let partial = (task.signature.generics.params.is_empty() && !types.is_empty())
        .then(|| partial(task, &input, &parameters[1..], &quote!(<#input>), &body));
    head(task, &quote!(), &quote!(#call #partial))
}

fn call(
    task: &Task,
    parameters: &[TokenStream],
    generics: &TokenStream,
    body: &TokenStream,
) -> TokenStream {
    let value = task.output.value();
    // All of it stands at the return type: what is wrong with that is then reported once.
    let made = quote_spanned!(task.output.span()=> ::garenne::Call<#value>);
    let about = format!("A call of the task `{}`, to be sent.", task.function_name());
    let summary = task.summary();
    let clause = &task.signature.generics.where_clause;
    quote_spanned! {task.signature.ident.span()=>
        #[doc = #about]
        #[doc = ""]
        #(#summary)*
        pub fn call #generics (#(#parameters),*) -> #made #clause {
            #body
        }
    }
}

fn partial(
    task: &Task,
    input: &impl quote::ToTokens,
    parameters: &[TokenStream],
    generics: &TokenStream,
    body: &TokenStream,
) -> TokenStream {
    let value = task.output.value();
    let made = quote_spanned!(task.output.span()=> ::garenne::Partial<#input, #value>);
    let about = format!(
        "A call of the task `{}` that gets its first argument from what is before it in a workflow.",
        task.function_name()
    );
    let clause = &task.signature.generics.where_clause;
    quote_spanned! {task.signature.ident.span()=>
        #[doc = #about]
        pub fn partial #generics (#(#parameters),*) -> #made #clause {
            #body
        }
    }
}

fn head(task: &Task, about: &TokenStream, functions: &TokenStream) -> TokenStream {
    let (ident, visibility) = (&task.signature.ident, &task.visibility);
    let attributes = task.shared_attributes();
    quote_spanned! {ident.span()=>
        #(#attributes)*
        #about
        #[allow(non_camel_case_types, dead_code, unreachable_pub)]
        #visibility struct #ident {}

        #(#attributes)*
        #[allow(
            dead_code, unused_variables, non_snake_case, deprecated, private_interfaces,
            unreachable_pub, clippy::all, clippy::pedantic
        )]
        impl #ident {
            #functions
        }
    }
}

/// What calls find it by.
fn name(task: &Task) -> TokenStream {
    task.options.name.clone().unwrap_or_else(|| {
        let name = task.function_name();
        quote!(#name)
    })
}

fn options(task: &Task) -> TokenStream {
    let options = task.options.fields.iter().map(|(k, v)| quote!(#k: #v,));
    quote! {
        ::garenne::__private::TaskOptions {
            #(#options)*
            ..::garenne::__private::TaskOptions::DEFAULT
        }
    }
}

fn registration(task: &Task) -> TokenStream {
    let ident = &task.signature.ident;
    let site = mixed_site(ident);
    let attributes = task.shared_attributes();
    let (name, options) = (name(task), options(task));
    let borrows = task
        .lent()
        .map(|ty| quote_spanned!(ty.span()=> ::garenne::__private::Borrow::of::<#ty>()));
    let run = run(task);
    // Items are not hygienic: the prefix keeps the static from hiding the user's function.
    quote_spanned! {site=>
        #(#attributes)*
        #[allow(deprecated, unused_mut, clippy::all, clippy::pedantic)]
        const _: () = {
            static __GARENNE_DEFINITION: ::garenne::__private::Definition =
                ::garenne::__private::Definition {
                    name: #name,
                    file: ::core::file!(),
                    line: ::core::line!(),
                    options: #options,
                    borrows: || ::std::vec![#(#borrows),*],
                    run: #run,
                };
            impl ::garenne::Task for #ident {
                const DEFINITION: &'static ::garenne::__private::Definition = &__GARENNE_DEFINITION;
            }
            ::garenne::__private::inventory::submit! {
                ::garenne::__private::Registered(&__GARENNE_DEFINITION)
            }
        };
    }
}

/// The function that a worker calls: decodes, borrows, runs, encodes.
fn run(task: &Task) -> TokenStream {
    let ident = &task.signature.ident;
    let site = mixed_site(ident);
    let invocation = local("invocation", site);
    let (mut decoded, mut lent, mut passed) = (Vec::new(), Vec::new(), Vec::new());
    for (n, Parameter { ident, kind }) in task.parameters.iter().enumerate() {
        let local = local(&format!("parameter_{n}"), site);
        match kind {
            Kind::Owned(ty) => {
                let parameter = parameter(decoded.len(), ident, ty);
                decoded.push(quote_spanned! {ty.span()=>
                    let #local = #invocation.argument(&#parameter)?;
                });
                passed.push(quote!(#local));
            }
            Kind::Lent(reference) => {
                let ty = &*reference.elem;
                lent.push(quote_spanned! {ty.span()=>
                    let #local = #invocation.lend::<#ty>()?;
                });
                passed.push(quote_spanned!(site=> &*#local));
            }
        }
    }
    let value = local("value", site);
    let encode = encode(&task.output, &value, site);
    let body = |awaited: TokenStream| {
        quote_spanned! {site=>
            #(#decoded)*
            #invocation.no_more()?;
            #(#lent)*
            let #value = #ident(#(#passed),*) #awaited;
            #encode
        }
    };
    if task.signature.asyncness.is_some() {
        let body = body(quote_spanned!(site=> .await));
        quote_spanned! {site=>
            ::garenne::__private::Run::Async(|mut #invocation| {
                ::std::boxed::Box::pin(async move { #body })
            })
        }
    } else {
        let body = body(TokenStream::new());
        quote_spanned!(site=> ::garenne::__private::Run::Blocking(|mut #invocation| { #body }))
    }
}

fn parameter(position: usize, ident: &Ident, ty: &Type) -> TokenStream {
    let (name, optional) = (ident.unraw().to_string(), is_named(ty, "Option"));
    quote_spanned! {ty.span()=>
        ::garenne::__private::Parameter::<#ty>::new(#position, #name, #optional)
    }
}

fn encode(output: &Output, value: &Ident, site: Span) -> TokenStream {
    match output {
        Output::Unit => quote_spanned!(site=> ::garenne::__private::encode::<()>(&#value)),
        Output::Value(ty) => {
            quote_spanned!(ty.span()=> ::garenne::__private::encode::<#ty>(&#value))
        }
        Output::Fallible(ty) => {
            let ok = output.value();
            let err = match result_arguments(ty) {
                Some((_, error)) => quote!(#error),
                None => quote_spanned!(ty.span()=> <#ty as ::garenne::__private::Fallible>::Error),
            };
            let error = local("error", site);
            quote_spanned! {ty.span()=>
                match <#ty as ::garenne::__private::Fallible>::into_result(#value) {
                    ::core::result::Result::Ok(#value) => ::garenne::__private::encode::<#ok>(&#value),
                    ::core::result::Result::Err(#error) => ::garenne::__private::failed::<#err>(#error),
                }
            }
        }
    }
}

/// A name that the user's parameters cannot meet thanks to hygiene, nor their statics thanks to the prefix.
fn local(name: &str, site: Span) -> Ident {
    Ident::new(&format!("__garenne_{name}"), site)
}

/// Local names made with it cannot meet the user's; rustc's remarks on the code point at the function.
fn mixed_site(ident: &Ident) -> Span {
    Span::mixed_site().located_at(ident.span())
}

impl Task {
    fn owned(&self) -> impl Iterator<Item = (&Ident, &Type)> {
        self.parameters
            .iter()
            .filter_map(|parameter| match &parameter.kind {
                Kind::Owned(ty) => Some((&parameter.ident, ty)),
                Kind::Lent(_) => None,
            })
    }

    fn lent(&self) -> impl Iterator<Item = &Type> {
        self.parameters
            .iter()
            .filter_map(|parameter| match &parameter.kind {
                Kind::Owned(_) => None,
                Kind::Lent(reference) => Some(&*reference.elem),
            })
    }
}

impl Output {
    fn span(&self) -> Span {
        match self {
            Self::Unit => Span::call_site(),
            Self::Value(ty) | Self::Fallible(ty) => ty.span(),
        }
    }

    /// What a call of the task resolves to.
    fn value(&self) -> TokenStream {
        match self {
            Self::Unit => quote!(()),
            Self::Value(ty) => quote!(#ty),
            Self::Fallible(ty) => match result_arguments(ty) {
                Some((value, _)) => quote!(#value),
                None => quote_spanned!(ty.span()=> <#ty as ::garenne::__private::Fallible>::Value),
            },
        }
    }
}
