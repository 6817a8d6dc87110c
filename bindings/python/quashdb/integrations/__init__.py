"""QuashDB behind the interfaces of other libraries, each imported by name:

    quashdb.integrations.langchain     QuashVectorStore, a LangChain VectorStore
    quashdb.integrations.llama_index   QuashVectorStore, a LlamaIndex vector store
    quashdb.integrations.haystack      QuashDocumentStore, a Haystack document store
    quashdb.integrations.chroma        Client, PersistentClient: code written for Chroma

Nothing here loads a model or opens a connection: embeddings come from the caller.
"""
