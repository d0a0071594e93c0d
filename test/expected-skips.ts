/** Tests that may be skipped, each with its reason. Any other skip fails the run. */
export const EXPECTED_SKIPS: readonly { readonly test: RegExp; readonly reason: string }[] = [];
