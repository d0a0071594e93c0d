/** Makes of each object what `make` makes, once: for objects that never change. It is forgotten with the object. */
export function remembered<R extends object, V>(make: (object: R) => V): (object: R) => V {
  const cache = new WeakMap<R, { readonly made: V }>();
  return (object) => {
    const known = cache.get(object);
    if (known !== undefined) return known.made;
    const made = make(object);
    cache.set(object, { made });
    return made;
  };
}
